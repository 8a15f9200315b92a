"""Cancelling: from anywhere, whatever the run does.

How soon is printed. A busy machine adds to it what it likes, so that the second which is promised is held
to where it is set: tests/unit/runs/test_promptness.py.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import anyio
import pytest
from sqlalchemy import text

from mcp_server.auth.keys import KeyService
from mcp_server.auth.principal import Principal
from mcp_server.storage.sql.embedded import Cluster
from tests.contract.runs.engine import Engine, new_suffix, open_engine, worker_process


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Engine]:
    async with open_engine(cluster.control_url) as engine:
        yield engine


async def cancel(client: Engine, principal: Principal, run: str) -> None:
    """Ask for a cancellation, and wait until the run has ended; say after how many seconds."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await client.stores.queue.request_cancel(principal.tenant, run)
    client.wake.send("runs")
    await client.until(principal, run, "cancelled")
    print(f"cancelled after {loop.time() - begun:.2f} s")


async def test_another_process_cancels_and_keeps_what_was_told(
    client: Engine, cluster: Cluster, principal: Principal
) -> None:
    suffix = new_suffix()
    async with worker_process(cluster.control_url, suffix):
        run = await client.start(principal, f"hang-{suffix}")
        await client.trying(run, "hang")
        await cancel(client, principal, run)
        told = await client.ended(run)
        assert [event["text"] for event in told if event["type"] == "text"] == ["begun", " and"]
        assert told[-1] == {"seq": len(told), "type": "status", "status": "cancelled"}


async def test_a_run_that_waits_for_a_worker_is_cancelled_at_once(
    client: Engine, principal: Principal
) -> None:
    run = await client.start(principal, f"hang-{new_suffix()}")
    await cancel(client, principal, run)


async def test_the_run_of_a_stopped_worker_is_cancelled_without_it(
    client: Engine, cluster: Cluster, principal: Principal
) -> None:
    suffix = new_suffix()
    async with worker_process(cluster.control_url, suffix) as process:
        run = await client.start(principal, f"steps-{suffix}", {"count": 9, "seconds": 0.2})
        await client.trying(run, "step/1")
        process.signal(signal.SIGSTOP)
        await client.stores.queue.request_cancel(principal.tenant, run)
        assert await client.stores.queue.force_cancel(principal.tenant, run)
        seen = (await client.load(principal, run)).last_seq
        process.signal(signal.SIGCONT)
        other = await client.start(principal, f"steps-{suffix}", {"count": 1, "seconds": 0})
        await client.ended(other)
        after = await client.load(principal, run)
        assert (after.status, after.last_seq) == ("cancelled", seen)


@pytest.mark.parametrize("where", ["running", "queued", "input_required"])
async def test_a_revoked_key_ends_its_runs(
    client: Engine, cluster: Cluster, principal: Principal, where: str
) -> None:
    keys = KeyService(client.control)
    key = await keys.create("doomed", tenant=principal.tenant)
    owner = Principal(principal.tenant, "doomed", frozenset(key["scopes"]), key["id"])
    suffix = new_suffix()
    kind = {"running": "hang", "queued": "none", "input_required": "ask"}[where]
    async with open_engine(cluster.control_url, suffix) as engine:
        run = await client.start(owner, f"{kind}-{suffix}")
        await client.until(owner, run, where)
        if where == "running":
            await client.trying(run, "hang")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await keys.revoke(key["id"])
        found = await client.until(owner, run, "failed")
        print(f"{where}: ended {loop.time() - begun:.2f} s after the revocation")
        assert found.error is not None
        assert found.error["code"] == "unauthenticated"
        with anyio.fail_after(30):
            while run in engine.worker.held:
                await asyncio.sleep(0.01)


async def test_a_work_that_does_not_heed_its_cancellation_cannot_hold_it_up(
    client: Engine, cluster: Cluster, principal: Principal
) -> None:
    suffix = new_suffix()
    async with open_engine(cluster.control_url, suffix) as engine:
        let_go = asyncio.Event()

        async def stubborn(context: object) -> object:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue
            raise AssertionError

        engine.worker._works = {f"stubborn-{suffix}": stubborn}  # pyright: ignore[reportAttributeAccessIssue]
        run = await engine.start(principal, f"stubborn-{suffix}")
        await engine.until(principal, run, "running")
        await cancel(client, principal, run)
        let_go.set()
        async with client.control.connect() as tx:
            held = await tx.scalar(text("select lease from runs where id = :id"), {"id": run})
        assert held is None
