"""Schedules over changes of offset and over an outage, with three processes that die at any moment.

The expected ticks come from an oracle that watches a clock on the wall minute by minute.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.storage.sql.control import open_pool
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.run_tables import schedules
from tests.contract.runs.clockwork import Clockwork, open_clockwork
from tests.unit.runs.wall_clock import watched

ROOT = Path(__file__).parents[3]
LONG = os.environ.get("TEST_LENGTH") == "long"
WORK = {"agent": "helper", "input": "tick"}
MINUTE = timedelta(minutes=1)
GRACE = timedelta(seconds=60)
# The moment of a change, and a zone with it; the outage covers it.
CHANGES = [
    ("Europe/Berlin", datetime(2027, 3, 28, 1, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2027, 10, 31, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2027, 3, 14, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2027, 11, 7, 6, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2027, 10, 2, 15, 30, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2027, 4, 3, 15, tzinfo=UTC)),
]
CRONS = {
    "fixed in the change": "30 2 * * *",
    "fixed half-hourly": "0,30 1-3 * * *",
    "fixed office": "0 9 * * 1-5",
    "real quarters": "*/15 0-5 * * *",
    "real hours": "20 * * * *",
}
POLICIES = ("skip", "once", "all")


@pytest.fixture
async def clock(
    operations: Operations, control: AsyncEngine, principal: Principal
) -> AsyncIterator[Clockwork]:
    async with open_clockwork(operations, control) as clock:
        await clock.helper(principal)
        yield clock


@pytest.fixture
async def processes(operations: Operations, cluster: Cluster) -> AsyncIterator[list[Clockwork]]:
    """Three processes, each with connections of its own."""
    async with AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(open_pool(cluster.control_url, pool_size=2, overflow=0))
            for _ in range(3)
        ]
        yield [Clockwork(operations, pool) for pool in pools]


def looks(
    start: datetime, end: datetime, ticks: Sequence[datetime], dice: random.Random
) -> Iterator[datetime]:
    """Yield the moments at which the processes look: up to 20 s after each tick."""
    last = start
    for tick in sorted(set(ticks)):
        look = max(last, tick + timedelta(seconds=dice.uniform(0, 20)))
        if tick > start and look < end:
            last = look
            yield look
    yield end


def expected(policy: str, ticks: Sequence[datetime], moments: Sequence[datetime]) -> list[datetime]:
    """Say which ticks fire, from when the processes looked and nothing else."""
    fired: list[datetime] = []
    last = min(ticks) - MINUTE
    for moment in moments:
        new = [tick for tick in ticks if last < tick <= moment]
        late = [tick for tick in new if moment - tick >= GRACE]
        kept = {"skip": [], "once": late[-1:], "all": late}[policy]
        fired += kept + [tick for tick in new if moment - tick < GRACE]
        last = max(last, moment)
    return fired


async def begin(clock: Clockwork, item: Any, first: datetime) -> None:
    """Set the schedule to its first tick of a time that has not come yet."""
    async with clock.control.begin() as tx:
        await tx.execute(
            update(schedules).where(schedules.c.id == item["id"]).values(next_fire_at=first)
        )


async def look(processes: list[Clockwork], now: datetime, dice: random.Random) -> int:
    """Let all processes look at the same time, each killed now and then in a fire; return the deaths."""
    deaths = 0

    def die() -> None:
        if dice.random() < 0.05:
            raise ConnectionAbortedError

    async def one(process: Clockwork) -> None:
        nonlocal deaths
        process.queue.broken = die
        while True:
            try:
                await process.schedules.fire_due(now)
                return
            except ConnectionAbortedError:
                deaths += 1

    await asyncio.gather(*(one(process) for process in processes))
    return deaths


@pytest.mark.parametrize(("timezone", "change"), CHANGES, ids=[f"{z}-{c:%m}" for z, c in CHANGES])
async def test_over_a_change_and_an_outage_each_tick_fires_once_or_as_its_policy_says(
    clock: Clockwork,
    processes: list[Clockwork],
    principal: Principal,
    timezone: str,
    change: datetime,
) -> None:
    dice = random.Random(f"{timezone}{change}")
    # A week for one zone, three days for the others; in the long form a week for each.
    half = timedelta(hours=84 if LONG or timezone == "Europe/Berlin" else 36)
    start, end = change - half, change + half
    outage = (change - 4 * MINUTE, change + 6 * MINUTE)
    wanted: list[tuple[Any, str, list[datetime]]] = []
    for number, (name, cron) in enumerate(CRONS.items()):
        policy = POLICIES[number % 3]
        timing = {"cron": cron, "timezone": timezone}
        item = await clock.schedules.save(
            principal, name.replace(" ", "-"), timing=timing, work=WORK, missed=policy
        )
        wanted.append((item, policy, watched(cron, timezone, start, end)))
    every = {"every_seconds": 5400, "start_at": start.isoformat()}
    item = await clock.schedules.save(principal, "interval", timing=every, work=WORK, missed="all")
    times = [start + n * timedelta(seconds=5400) for n in range(200)]
    wanted.append((item, "all", [time for time in times if start < time <= end]))
    minutely = {"cron": "* * * * *"}
    around = [outage[0] + n * MINUTE for n in range(-5, 16)]
    for policy in POLICIES:
        item = await clock.schedules.save(
            principal, f"minutely-{policy}", timing=minutely, work=WORK, missed=policy
        )
        wanted.append((item, policy, around))
    for item, _, ticks in wanted:
        await begin(clock, item, ticks[0])
    every_tick = [tick for _, _, ticks in wanted for tick in ticks]
    moments = [
        moment
        for moment in looks(start, end, every_tick, dice)
        if not outage[0] < moment < outage[1]
    ]
    moments = sorted({*moments, outage[1] + timedelta(seconds=7)})
    deaths = 0
    for moment in moments:
        deaths += await look(processes, moment, dice)
        if moment > around[-1] + MINUTE:
            for policy in POLICIES:
                await clock.schedules.delete(principal, f"minutely-{policy}")
    fired = missed = 0
    for item, policy, ticks in wanted:
        given = [t for t in await clock.ticks(principal, item) if t <= ticks[-1]]
        assert given == expected(policy, ticks, moments), (item["name"], policy)
        fired, missed = fired + len(given), missed + len(ticks) - len(given)
    print(
        f"\n{timezone} {change:%Y-%m-%d}: {fired} ticks fired once by 3 processes, {missed} left out "
        f"by policy, {len(moments)} looks, {deaths} deaths in the middle of a fire"
    )
    assert deaths > 0
    assert missed > 0


async def test_three_processes_of_which_two_are_killed_fire_each_second_once(
    clock: Clockwork, principal: Principal, cluster: Cluster
) -> None:
    item = await clock.schedules.save(
        principal, "s", timing={"every_seconds": 1}, work=WORK, missed="all"
    )
    running: list[asyncio.subprocess.Process] = []
    command = (sys.executable, "-m", "tests.contract.runs.firing_process", cluster.control_url)
    start = partial(
        asyncio.create_subprocess_exec, *command, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        running += [await start(), await start(), await start()]
        with anyio.fail_after(60):
            for process in running:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"firing\n"
        for process in running[:2]:
            await fired_more(clock, principal, item, 2)
            process.kill()  # SIGKILL, wherever it is
        await fired_more(clock, principal, item, 2)
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
            await process.wait()
    ticks = await clock.ticks(principal, item)
    second = timedelta(seconds=1)
    assert ticks == [ticks[0] + n * second for n in range(len(ticks))]
    print(f"\n{len(ticks)} ticks of one second, each fired once, 2 of 3 processes killed")


async def fired_more(clock: Clockwork, principal: Principal, item: Any, more: int) -> None:
    wanted = len(await clock.ticks(principal, item)) + more
    with anyio.fail_after(30):
        while len(await clock.ticks(principal, item)) < wanted:
            await asyncio.sleep(0.05)
