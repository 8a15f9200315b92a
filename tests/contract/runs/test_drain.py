"""Stopping a worker: what it cannot finish goes back to the queue without harm."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from mcp_server.auth.principal import Principal
from mcp_server.storage.sql.embedded import Cluster
from tests.contract.runs.engine import Engine, new_suffix, open_engine, worker_process


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Engine]:
    async with open_engine(cluster.control_url) as engine:
        yield engine


async def leases(client: Engine) -> set[int]:
    async with client.control.connect() as tx:
        return set(await tx.scalars(text("select epoch from run_leases")))


async def test_a_stop_hands_back_and_the_next_worker_goes_on(
    client: Engine, cluster: Cluster, principal: Principal
) -> None:
    suffix = new_suffix()
    async with worker_process(cluster.control_url, suffix) as process:
        before = await leases(client)
        run = await client.start(principal, f"steps-{suffix}", {"count": 3, "seconds": 0.5})
        await client.trying(run, "step/1")
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0
        handed = await client.load(principal, run)
        assert handed.status == "queued"
        assert len(before - await leases(client)) >= 1
    async with open_engine(cluster.control_url, suffix) as heir:
        await heir.ended(run)
        ended = await heir.load(principal, run)
    assert (ended.status, ended.attempt) == ("completed", 2)
    assert (await client.trials(run)).count("step/0") == 1
    async with client.control.connect() as tx:
        strikes = await tx.scalar(text("select strikes from runs where id = :id"), {"id": run})
    assert strikes == 0


async def test_draining_lets_what_is_nearly_done_end_and_claims_nothing_more(
    client: Engine, cluster: Cluster, principal: Principal
) -> None:
    suffix = new_suffix()
    async with open_engine(cluster.control_url, suffix) as engine:
        first = await client.start(principal, f"steps-{suffix}", {"count": 2, "seconds": 0.2})
        await client.trying(first, "step/0")
        draining = asyncio.create_task(engine.worker.drain(10))
        second = await client.start(principal, f"steps-{suffix}", {"count": 1, "seconds": 0})
        await draining
        assert (await client.load(principal, first)).status == "completed"
        assert (await client.load(principal, second)).status == "queued"


async def test_a_run_that_is_handed_back_while_its_cancellation_is_asked_for_is_cancelled(
    client: Engine, cluster: Cluster, principal: Principal
) -> None:
    suffix = new_suffix()
    async with open_engine(cluster.control_url, suffix) as engine:
        run = await client.start(principal, f"hang-{suffix}")
        await client.trying(run, "hang")
        await engine.stores.queue.request_cancel(principal.tenant, run)
    assert (await client.load(principal, run)).status == "cancelled"
