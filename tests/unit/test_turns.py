"""Turns are shared fairly between tenants, and none is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server.errors import LimitExceeded
from mcp_server.services.vectors.turns import Turns


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Crowd:
    """Calls that hold their turn until they are told to end."""

    def __init__(self, at_once: int, each: int) -> None:
        self.turns = Turns(at_once, each)
        self.began: list[str] = []
        self.running: list[tuple[str, asyncio.Event]] = []

    async def call(self, tenant: str) -> None:
        end = asyncio.Event()
        async with self.turns.turn(tenant):
            self.began.append(tenant)
            self.running.append((tenant, end))
            await end.wait()

    async def end(self, number: int) -> None:
        self.running.pop(number)[1].set()
        await settle()


async def test_a_tenant_beside_a_long_queue_waits_for_one_turn() -> None:
    crowd = Crowd(2, 2)
    tasks = [asyncio.create_task(crowd.call("loud")) for _ in range(50)]
    await settle()
    assert crowd.began == ["loud", "loud"]  # alone, it has them all
    tasks += [asyncio.create_task(crowd.call(name)) for name in ("quiet", "other")]
    await settle()
    await crowd.end(0)
    await crowd.end(0)
    assert crowd.began[2:] == ["quiet", "other"]
    for _ in range(50):
        await crowd.end(0)
    assert len(crowd.began) == 52
    await asyncio.gather(*tasks)


async def test_what_a_tenant_may_not_take_is_there_for_the_next_at_once() -> None:
    crowd = Crowd(4, 2)
    tasks = [asyncio.create_task(crowd.call("loud")) for _ in range(10)]
    await settle()
    assert crowd.began == ["loud", "loud"]
    tasks += [asyncio.create_task(crowd.call("quiet")) for _ in range(3)]
    await settle()
    assert crowd.began[2:] == ["quiet", "quiet"]
    for _ in range(13):
        await crowd.end(0)
    assert len(crowd.began) == 13
    await asyncio.gather(*tasks)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["call", "end", "cancel"])), max_size=40
    )
)
async def test_no_turn_is_lost_or_taken_twice(steps: list[tuple[str, str]]) -> None:
    crowd = Crowd(2, 2)
    tasks: list[asyncio.Task[None]] = []
    for number, (tenant, step) in enumerate(steps):
        if step == "call":
            tasks.append(asyncio.create_task(crowd.call(tenant)))
        elif step == "end" and crowd.running:
            crowd.running[number % len(crowd.running)][1].set()
        elif tasks:
            tasks[number % len(tasks)].cancel()
        await settle()
        crowd.running = [each for each in crowd.running if not each[1].is_set()]
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    crowd.began.clear()
    last = [asyncio.create_task(crowd.call("z")) for _ in range(3)]
    await settle()
    assert len(crowd.began) == 2
    for task in last:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_beyond_a_bounded_queue_a_tenant_is_refused_and_no_other() -> None:
    turns = Turns(2, 1, longest=3)
    end = asyncio.Event()

    async def call(tenant: str) -> None:
        async with turns.turn(tenant):
            await end.wait()

    tasks = [asyncio.create_task(call("loud")) for _ in range(4)]
    await settle()
    with pytest.raises(LimitExceeded) as refused:
        await call("loud")
    assert refused.value.retry_after == 1
    tasks.append(asyncio.create_task(call("quiet")))
    await settle()
    end.set()
    await asyncio.gather(*tasks)
    await call("loud")  # there is room again
