"""A run outlives its worker: another one takes it over, and nothing of it is lost or written twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.runs.intervals import Timing
from mcp_server.services.runs import RunService
from mcp_server.storage.sql.embedded import Cluster
from tests.contract.runs.world import World, ended

HOLDER = Path(__file__).with_name("holder.py")
ROOT = Path(__file__).parents[3]


# A worker counts as dead after two seconds instead of ten; it beats the more often.
IMPATIENT = Timing(lease=2, heartbeat=0.1)


@asynccontextmanager
async def holder(
    cluster: Cluster, principal: Principal, count: int
) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HOLDER),
        cluster.control_url,
        principal.tenant,
        str(count),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process, await read_line(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def read_line(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    with anyio.fail_after(60):
        return (await process.stdout.readline()).decode().split()


async def told_by(control: AsyncEngine, principal: Principal, run: str) -> list[str]:
    entries, _ = await journal.read(control, principal.tenant, None, 1000)
    return [entry["verb"] for entry in entries if entry["uri"] == f"run://{run}"]


async def test_runs_of_a_killed_process_are_finished_by_another_one(
    world: World, principal: Principal, control: AsyncEngine, cluster: Cluster
) -> None:
    async with holder(cluster, principal, 2) as (process, held):
        await stored(control, held[0], 8)
        process.kill()
        await process.wait()
        async with world.open(timing=IMPATIENT) as runs:
            for run in held:
                events = await ended(runs, principal, run)
                assert events[-1]["status"] == "completed"
                assert {"type": "resumed", "attempt": 2} in [
                    {key: value for key, value in event.items() if key != "seq"} for event in events
                ]
                assert (await told_by(control, principal, run))[-3:] == [
                    *("queued", "running", "completed")
                ]
            done = await runs.get(principal, held[0])
    assert (done["attempt"], done["output"], done["error"]) == (2, "well, hello", None)
    assert done["ended_at"] is not None


async def test_cancelling_a_run_whose_process_died_ends_it_as_cancelled(
    world: World, principal: Principal, control: AsyncEngine, cluster: Cluster
) -> None:
    async with holder(cluster, principal, 1) as (process, held):
        await stored(control, held[0], 8)
        async with world.open(timing=IMPATIENT) as runs:
            process.kill()
            cancelled = await runs.cancel(principal, held[0])
            assert (cancelled["status"], cancelled["error"]) == ("cancelled", None)


async def test_a_process_that_wakes_up_after_its_runs_were_taken_over_writes_nothing(
    world: World, principal: Principal, control: AsyncEngine, cluster: Cluster
) -> None:
    async with holder(cluster, principal, 2) as (process, held):
        for run in held:
            await stored(control, run, 8)
        async with world.open(timing=IMPATIENT) as runs:
            process.send_signal(signal.SIGSTOP)
            before = [await ended(runs, principal, run) for run in held]
            process.send_signal(signal.SIGCONT)
            assert await read_line(process) == ["let", "go"]
            assert [await ended(runs, principal, run) for run in held] == before
            assert [await status_of(runs, principal, run) for run in held] == ["completed"] * 2


async def test_several_workers_take_a_run_over_once(
    world: World, principal: Principal, control: AsyncEngine, cluster: Cluster
) -> None:
    async with holder(cluster, principal, 1) as (process, held):
        await stored(control, held[0], 2)
        process.kill()
        await process.wait()
    others = [World(world.operations, control) for _ in range(2)]
    async with (
        world.open(timing=IMPATIENT) as one,
        others[0].open(timing=IMPATIENT),
        others[1].open(timing=IMPATIENT),
    ):
        await ended(one, principal, held[0])
        assert (await one.get(principal, held[0]))["attempt"] == 2
    told = await told_by(control, principal, held[0])
    assert told == ["queued", "running", "queued", "running", "completed"]


async def test_a_run_goes_on_through_lost_database_connections_without_a_gap(
    operations: Operations, principal: Principal, control: AsyncEngine, cluster: Cluster
) -> None:
    name = "doomed"
    url = cluster.control_url.replace("postgresql://", "postgresql+asyncpg://", 1)
    own = create_async_engine(url, connect_args={"server_settings": {"application_name": name}})
    world = World(operations, own)
    call = "{tool_calls: [{name: kv_set, arguments: {key: a, value: 1}}], delay_ms: 20}"
    world.script = f"turns: [{', '.join([call] * 40)}, {{text: done}}]"
    await world.save(principal, limits={"turns": 100})
    try:
        async with world.open() as runs:
            started = await runs.start(principal, "helper", "go")
            for seen in (5, 25, 45, 65, 85):
                await stored(control, started["run"], seen)
                assert await terminate(control, name) > 0
            done = await finished(World(operations, control), principal, started["run"])
    finally:
        await own.dispose()
    assert done[-1] == {"seq": len(done), "type": "status", "status": "completed"}
    assert sum(event["type"] == "tool_finished" for event in done) == 40


async def finished(world: World, principal: Principal, run: str) -> list[dict[str, Any]]:
    async with world.open() as runs:
        return await ended(runs, principal, run)


async def status_of(runs: RunService, principal: Principal, run: str) -> str:
    return (await runs.get(principal, run))["status"]


async def stored(control: AsyncEngine, run: str, count: int) -> None:
    query = text("select coalesce(max(last_seq), 0) from run_events where run = :run")
    with anyio.fail_after(30):
        while True:
            async with control.connect() as tx:
                if (await tx.scalar(query, {"run": run}) or 0) >= count:
                    return
            await anyio.sleep(0.01)


async def terminate(control: AsyncEngine, name: str) -> int:
    query = text(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = :name"
    )
    async with control.connect() as tx:
        return await tx.scalar(query, {"name": name}) or 0
