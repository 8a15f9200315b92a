"""One process's part of the run engine over a control database, with short times."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.runs.context import Work
from mcp_server.runs.events import RunEvents
from mcp_server.runs.following import Following, open_following
from mcp_server.runs.intervals import Timing
from mcp_server.runs.leases import Leases
from mcp_server.runs.marks import MarkStore
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.record import Event, Run, new_run_id
from mcp_server.runs.steps import RunSteps
from mcp_server.runs.stores import Stores
from mcp_server.runs.sweep import Sweep
from mcp_server.runs.worker import Worker, open_worker
from mcp_server.services.run_engine import RunJournal
from mcp_server.storage.sql.control import open_pool
from mcp_server.storage.sql.wake import Wake, open_wake
from tests.contract.runs.scripted import TABLE, Scripted

QUICK = Timing(lease=1.5, heartbeat=0.2, claim=0.3, watch=0.2, sweep=0.2, tidy=1.0, retry=0.05)
ROOT = Path(__file__).parents[3]

record = RunJournal()


class Engine:
    """What one process has open."""

    worker: Worker
    following: Following
    wake: Wake

    def __init__(self, control: AsyncEngine, heartbeat: AsyncEngine, seconds: float) -> None:
        self.control = control
        self.stores = Stores(
            queue=RunQueue(control, record),
            events=RunEvents(control),
            steps=RunSteps(control),
            leases=Leases(control, record, seconds),
            heartbeat=Leases(heartbeat, record, seconds),
            sweep=Sweep(control, record),
        )

    async def start(self, principal: Principal, kind: str, given: Any = None, **more: Any) -> str:
        """Queue a run, and return its id."""
        run = Run(
            id=new_run_id(),
            tenant=principal.tenant,
            subject=principal.subject,
            key_id=principal.key_id,
            grant=principal.scopes,
            kind=kind,
            input=given or {},
            **more,
        )
        await self.stores.queue.create(run)
        self.wake.send("queue")
        return run.id

    async def load(self, principal: Principal, run: str) -> Run:
        found = await self.stores.queue.load(principal.tenant, run)
        assert found is not None
        return found

    async def until(self, principal: Principal, run: str, *statuses: str) -> Run:
        """Wait until the run has one of the statuses."""
        with anyio.fail_after(30):
            while (found := await self.load(principal, run)).status not in statuses:
                await asyncio.sleep(0.02)
        return found

    async def ended(self, run: str, after: int = 0) -> list[Event]:
        """Follow a run to its end; its events must be numbered without a gap."""
        with anyio.fail_after(60):
            async with aclosing(self.following.follow(run, after)) as events:
                told = [event async for event in events]
        assert [event["seq"] for event in told] == list(range(after + 1, after + 1 + len(told)))
        return told

    async def trials(self, run: str) -> list[str]:
        """Return the steps that works counted for a run, in order."""
        async with self.control.connect() as tx:
            query = text("select step from trials where run = :run order by step")
            return list(await tx.scalars(query, {"run": run}))

    async def trying(self, run: str, step: str) -> None:
        """Wait until a work is in the middle of a step."""
        with anyio.fail_after(30):
            while step not in await self.trials(run):
                await asyncio.sleep(0.02)

    async def leased(self, tenant: str | None = None) -> int:
        """Return how many runs of a tenant, or of the whole database, some lease holds."""
        query = (
            "select count(*) from runs where lease is not null and tenant = coalesce(:t, tenant)"
        )
        async with self.control.connect() as tx:
            return await tx.scalar(text(query), {"t": tenant}) or 0


@asynccontextmanager
async def open_engine(
    url: str,
    suffix: str | None = None,
    *,
    concurrency: int = 4,
    timing: Timing = QUICK,
    works: Mapping[str, Work] | None = None,
    marks: Sequence[MarkStore] = (),
) -> AsyncGenerator[Engine]:
    """Open a process's engine, with a worker for `works`, or for the scripted ones if a suffix of their kinds is given."""
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(open_pool(url, pool_size=4, overflow=4))
        heartbeat = await stack.enter_async_context(open_pool(url, pool_size=1, overflow=0))
        engine = Engine(control, heartbeat, timing.lease)
        engine.wake = await stack.enter_async_context(open_wake(url))
        async with control.begin() as tx:
            await tx.execute(text("select pg_advisory_xact_lock(7)"))
            await tx.execute(text(TABLE))
        engine.following = await stack.enter_async_context(
            open_following(engine.stores.events, engine.wake)
        )
        known = works if suffix is None else Scripted(control).works(suffix)
        if known is not None:
            engine.worker = await stack.enter_async_context(
                open_worker(
                    *(engine.stores, known, engine.wake),
                    concurrency=concurrency,
                    timing=timing,
                    marks=marks,
                )
            )
        yield engine


def new_suffix() -> str:
    return uuid.uuid4().hex[:8]


class WorkerProcess:
    """A second process with a worker for the same works."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    async def line(self) -> str:
        assert self._process.stdout is not None
        with anyio.fail_after(30):
            return (await asyncio.to_thread(self._process.stdout.readline)).strip()

    async def wait(self) -> int:
        with anyio.fail_after(30):
            return await asyncio.to_thread(self._process.wait)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stdin):
            if stream is not None:
                stream.close()


@asynccontextmanager
async def worker_process(url: str, suffix: str) -> AsyncGenerator[WorkerProcess]:
    """Start a process with a worker, and yield it when it claims."""
    process = WorkerProcess(
        subprocess.Popen(  # noqa: ASYNC220  it takes a moment, once
            [sys.executable, "-m", "tests.contract.runs.worker_process", url, suffix],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    )
    try:
        assert await process.line() == "ready"
        yield process
    finally:
        await asyncio.to_thread(process.end)
