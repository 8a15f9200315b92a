"""kill -9 at every step of a unit of work, and of its recovery: all of it is there, or nothing, and no remains."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.objects.collector import collect_garbage, sweep_orphans
from mcp_server.services.units import intent, open_units
from mcp_server.storage.sql.embedded import Cluster
from tests.contract.units.victim import POINTS, RECOVERY_POINTS
from tests.contract.units.world import World

LONG = os.environ.get("TEST_LENGTH") == "long"
AT_ONCE = 4
ROUNDS, UNITS, SHARE = (40, 8, 0.02) if LONG else (2, 2, 0.04)


class Victims:
    """The process whose forks die; see `victim`."""

    process: asyncio.subprocess.Process

    def __init__(self, cluster: Cluster, world: World, folder: Path, who: Principal) -> None:
        self.cluster, self.world, self.who = cluster, world, who
        self.folder = folder
        self.log = folder / "log"

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contract.units.victim"),
            *(self.cluster.control_url, self.cluster.data_url, str(self.folder / "blobs")),
            *(self.who.tenant, str(self.log)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def run(self, *lines: str) -> None:
        """Let a child do what each line says, all at once; return when all of them have ended."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        pids: list[int] = []
        for line in lines:
            stdin.write(f"{line}\n".encode())
            await stdin.drain()
            pids.append(int(await stdout.readline()))
        async with asyncio.timeout(120):
            for pid in pids:
                while is_alive(pid):
                    await asyncio.sleep(0.01)

    def written(self) -> set[int]:
        """The units whose call had its answer."""
        if not self.log.exists():
            return set()
        return {int(line) for line in self.log.read_text().split()}


def is_alive(pid: int) -> bool:
    """Tell whether a process runs: one that ended stays as a zombie until its parent ends."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2][0] not in "ZX"


@pytest.fixture
async def victims(
    cluster: Cluster, world: World, tmp_path: Path, principal: Principal, monkeypatch: Any
) -> AsyncIterator[Victims]:
    monkeypatch.setattr(intent, "STALE_SECONDS", 0.0)
    victims = Victims(cluster, world, tmp_path, principal)
    await world.sql.execute(principal, "create table t (a int)")
    await world.sql.execute(principal, "create table gone (a int)")
    await victims.start()
    yield victims
    assert victims.process.stdin is not None
    victims.process.stdin.close()
    await victims.process.wait()


async def prepare(world: World, who: Principal, count: int) -> None:
    """Make what units overwrite and delete."""
    insert = "insert into gone select generate_series(0, $1::int - 1)"
    await world.sql.execute(who, insert, [count])
    for number in range(count):
        await world.stores.kv.set(who, "default", f"over{number}", "old")
        await world.stores.objects.put(who, "default", f"gone{number}", text="old")
        await world.stores.vectors.add(who, "s", "old words", document=f"gone{number}")


async def recover(world: World, *, seconds: float = 30) -> None:
    """Settle everything here, in another process than those that died."""
    async with asyncio.timeout(seconds):
        while True:
            await world.recovery.sweep()
            if not await world.pending():
                return
            await asyncio.sleep(0.05)


async def state(world: World, who: Principal, number: int) -> list[bool]:
    """What of a unit has been done; what it makes is made, overwritten or deleted once."""
    rows = (await world.sql.query(who, "select a from t where a = $1", [number]))["rows"]
    gone = (await world.sql.query(who, "select a from gone where a = $1", [number]))["rows"]
    assert len(rows) < 2
    return [
        rows == [[number]],
        gone == [],
        await world.value(who, f"k{number}") == number,
        await world.value(who, f"over{number}") == number,
        await world.object(who, f"o{number}") == f"text {number}",
        await world.object(who, f"gone{number}") is None,
        await world.document(who, f"d{number}") == f"words {number}",
        await world.document(who, f"gone{number}") is None,
    ]


async def check(world: World, who: Principal, count: int) -> set[int]:
    """Return the units that were written, and see that each is whole or not there at all."""
    done: set[int] = set()
    entries = Counter(uri for _, uri in (await world.journal(who)))
    for number in range(count):
        seen = await state(world, who, number)
        assert len(set(seen)) == 1, (number, seen)
        if seen[0]:
            done.add(number)
        made = int(seen[0])
        for uri in (
            f"kv://default/k{number}",
            f"object://default/o{number}",
            f"vector://s/d{number}",
        ):
            assert entries[uri] == made, uri
        for uri in (f"kv://default/over{number}", f"object://default/gone{number}"):
            assert entries[uri] == 1 + made, uri
    assert await world.pending() == 0
    await check_remains(world, who)
    return done


async def check_remains(world: World, who: Principal) -> None:
    """No blob, chunk or vector is there that nothing names."""
    await sweep_orphans(world.control, world.blobs, timedelta(0))
    await collect_garbage(world.control, world.blobs, timedelta(0))
    query = text(
        "select (select count(*) from objects where tenant = :t)"
        " + (select count(*) from object_versions where tenant = :t)"
    )
    vectors = text(
        "select count(*) from chunk_vectors v where tenant = :t"
        " and not exists (select from chunks c where c.id = v.id)"
    )
    async with world.control.connect() as connection:
        named = await connection.scalar(query, {"t": who.tenant})
        assert await connection.scalar(vectors, {"t": who.tenant}) == 0
    assert len([blob async for blob in world.blobs.list()]) == named


STEPS = [f"{point.replace(' ', '_')} {when}" for point in POINTS for when in ("before", "after")]
RECOVERY_STEPS = [
    f"{point.replace(' ', '_')} {when}" for point in RECOVERY_POINTS for when in ("before", "after")
]


async def test_a_kill_at_each_step_leaves_all_or_nothing(
    world: World, victims: Victims, principal: Principal
) -> None:
    await prepare(world, principal, len(STEPS) + 1)
    jobs = [f"{step} {number}" for number, step in enumerate((*STEPS, "never before"))]
    for first in range(0, len(jobs), AT_ONCE):
        await victims.run(*jobs[first : first + AT_ONCE])
    left = await world.pending()
    await recover(world)
    done = await check(world, principal, len(jobs))
    names = {jobs[number].rpartition(" ")[0] for number in done}
    print(
        f"{len(jobs)} units: {len(done)} whole, {len(jobs) - len(done)} not there; {left} remains settled"
    )
    assert left
    assert victims.written() == {len(STEPS)} <= done
    # What decides is the tenant's commit.
    assert names == {"tenant_commit after", "control_commit after", "never before"}


async def test_a_kill_at_each_step_of_a_recovery_leaves_it_to_the_next(
    world: World, victims: Victims, principal: Principal
) -> None:
    count = 2 * len(RECOVERY_STEPS)
    await prepare(world, principal, count)
    # Units whose rows are there, and units whose rows are not; then recoveries that die.
    jobs = [f"{'mark before' if n % 2 else 'tenant_commit after'} {n}" for n in range(count)]
    for first in range(0, count, AT_ONCE):
        await victims.run(*jobs[first : first + AT_ONCE])
    for step in RECOVERY_STEPS:
        assert await world.pending()
        await victims.run(f"{step} -1")
    await recover(world)
    assert await check(world, principal, count) == set(range(0, count, 2))


async def test_a_process_that_serves_settles_by_itself_what_others_left(
    world: World, victims: Victims, principal: Principal, operations: Operations
) -> None:
    await prepare(world, principal, 2)
    await victims.run("tenant_commit after 0", "mark before 1")
    assert await world.pending()
    serving = open_units(operations, world.control, world.stores, world.engine, world.engine.units)
    async with serving, asyncio.timeout(20):
        while await world.pending():
            await asyncio.sleep(0.05)
    assert await check(world, principal, 2) == {0}


async def test_random_kills_of_writers_and_recoveries_do_each_unit_once(
    world: World, victims: Victims, principal: Principal
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    count = AT_ONCE * UNITS
    await prepare(world, principal, count)
    firsts = range(0, count, UNITS)
    for _ in range(ROUNDS):
        await victims.run(
            *(f"random {SHARE} {dice.randrange(2**32)} {first} {UNITS}" for first in firsts),
            f"recover {SHARE * 3} {dice.randrange(2**32)}",
        )
    await recover(world)
    before = victims.written()
    some = await check(world, principal, count)
    assert before <= some
    # Those that come again with the same key find what was done, and do what was not.
    await victims.run(*(f"random 0 1 {first} {UNITS}" for first in firsts))
    assert await check(world, principal, count) == set(range(count)) == victims.written()
    print(
        f"{count} units: {len(before)} answered and {len(some)} there after {ROUNDS} rounds of kills"
    )
