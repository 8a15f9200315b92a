"""Following: the same events everywhere, whatever breaks off in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest
from sqlalchemy import event as sqlalchemy_event

from mcp_server.auth.principal import Principal
from mcp_server.runs.record import Event
from mcp_server.storage.sql.embedded import Cluster
from tests.contract.runs.engine import Engine, new_suffix, open_engine, worker_process


@pytest.fixture
async def here(cluster: Cluster) -> AsyncIterator[Engine]:
    async with open_engine(cluster.control_url) as engine:
        yield engine


@pytest.fixture
async def there(cluster: Cluster) -> AsyncIterator[Engine]:
    async with open_engine(cluster.control_url) as engine:
        yield engine


async def follow_with_breaks(engine: Engine, run: str, breaks: int, seed: int) -> list[Event]:
    """Follow a run to its end, leaving and coming back so many times."""
    chance = random.Random(seed)
    told: list[Event] = []
    with anyio.fail_after(60):
        for left in range(breaks, -1, -1):
            stop_after = chance.randint(1, 6) if left else 10**9
            async with aclosing(engine.following.follow(run, len(told))) as events:
                async for event in events:
                    told.append(event)
                    stop_after -= 1
                    if stop_after == 0:
                        break
    return told


async def test_followers_of_two_processes_see_the_same_after_twenty_breaks_each(
    here: Engine, there: Engine, cluster: Cluster, principal: Principal
) -> None:
    suffix = new_suffix()
    async with worker_process(cluster.control_url, suffix):
        run = await here.start(principal, f"talk-{suffix}", {"count": 300, "seconds": 0.005})
        told = await asyncio.gather(
            *(
                follow_with_breaks(engine, run, 20, seed)
                for seed, engine in enumerate((here, there))
            )
        )
    stored = await here.ended(run)
    assert told[0] == told[1] == stored
    assert len(stored) == 303


async def test_many_followers_cost_one_question_at_a_time(
    here: Engine, principal: Principal
) -> None:
    asked: list[str] = []

    @sqlalchemy_event.listens_for(here.control.sync_engine, "before_cursor_execute")
    def note(*args: object) -> None:
        if "last_seq" in str(args[2]) and "run_events" not in str(args[2]):
            asked.append(str(args[2]))

    runs = [await here.start(principal, f"none-{new_suffix()}") for _ in range(50)]
    followers = [asyncio.create_task(here.ended(run)) for run in runs for _ in range(4)]
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.sleep(0.5)
    asked.clear()
    begun = loop.time()
    await asyncio.sleep(1.5)
    assert len(asked) <= (loop.time() - begun) * 4 + 2
    for run in runs:
        await here.stores.queue.request_cancel(principal.tenant, run)
    here.wake.send("runs")
    for told in await asyncio.gather(*followers):
        assert told[-1]["status"] == "cancelled"
    assert not here.following._waiting


async def test_following_what_does_not_exist_or_has_ended_ends(
    here: Engine, principal: Principal
) -> None:
    assert await here.ended("run_" + "0" * 32) == []
    run = await here.start(principal, f"none-{new_suffix()}")
    await here.stores.queue.request_cancel(principal.tenant, run)
    assert [event["seq"] for event in await here.ended(run, 1)] == [2]
