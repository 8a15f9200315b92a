"""kill -9 at every step of a write to Milvus, and of the collection after it: a version is whole or not there, and nothing stays."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.vectors import VectorService
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.vectors.milvus.engine import MilvusVectors
from tests.contract.vectors.hashed_words import HashedWords
from tests.contract.vectors.milvus_world import entities, waiting, without_keeper
from tests.contract.vectors.victim import COLLECTING, STEPS, is_there, new_text

LONG = os.environ.get("TEST_LENGTH") == "long"
AT_ONCE = 4
ROUNDS = 30 if LONG else 2
# Each of the writers has some documents of its own.
EACH = 2
KILLED = 9


class World:
    """The stores over a real server, and the process whose forks die; see `victim`."""

    process: asyncio.subprocess.Process

    def __init__(
        self, engine: MilvusVectors, vectors: VectorService, control: AsyncEngine, url: str
    ) -> None:
        self.engine, self.vectors, self.control, self.url = engine, vectors, control, url

    async def run(self, jobs: Sequence[Sequence[Any]], at_once: int = AT_ONCE) -> list[int]:
        """Do jobs, some at once; return how they ended."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        ends: list[int] = []
        for first in range(0, len(jobs), at_once):
            stdin.write(json.dumps(jobs[first : first + at_once]).encode() + b"\n")
            await stdin.drain()
            async with asyncio.timeout(120):
                ends += json.loads(await stdout.readline())
        return ends

    async def collect(self, tenant: str) -> None:
        """Collect all that is left, also what might still have been published."""
        async with self.control.begin() as tx:
            due = text("update vector_garbage set due_at = now() where tenant = :t")
            await tx.execute(due, {"t": tenant})
        while await self.engine.collect():
            pass


@pytest.fixture
async def world(
    cluster: Cluster,
    control: AsyncEngine,
    operations: Operations,
    principal: Principal,
    milvus_url: str,
    tmp_path: Path,
) -> AsyncIterator[World]:
    async with without_keeper(milvus_url, control) as engine:
        vectors = VectorService(operations, control, engine, HashedWords(), undo_days=7)
        world = World(engine, vectors, control, milvus_url)
        world.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contract.vectors.victim"),
            *(cluster.control_url, milvus_url, principal.tenant, str(tmp_path / "log")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        yield world
        assert world.process.stdin is not None
        world.process.stdin.close()
        await world.process.wait()


def answered(tmp_path: Path) -> dict[int, int]:
    """Return the last turn of each document whose write had its answer."""
    log = tmp_path / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    pairs = [(int(number), int(turn)) for number, turn in map(str.split, lines)]
    return {number: max(turn for each, turn in pairs if each == number) for number, _ in pairs}


async def whole(world: World, who: Principal, number: int) -> str:
    """Return the text of a document, all of whose chunks and no others are found by their vectors."""
    document = await world.vectors.get(who, "s", f"d{number}")
    only = {"type": "eq", "key": "n", "value": number}
    answer = await world.vectors.search(who, "s", "topic", k=100, mode="dense", filter=only)
    assert sorted(each["chunk"] for each in answer["results"]) == list(range(document["chunks"]))
    return document["text"]


async def check_nothing_else(world: World, who: Principal) -> int:
    """See that the server holds what the rows name, each once, and nothing waits; return how many entries."""
    await world.collect(who.tenant)
    assert await waiting(world.control, who.tenant) == 0
    query = text("select id, generation from chunk_vectors where tenant = :t")
    async with world.control.connect() as tx:
        named = {(row.id, row.generation) for row in await tx.execute(query, {"t": who.tenant})}
        chunks = text("select count(*) from chunks where tenant = :t")
        assert await tx.scalar(chunks, {"t": who.tenant}) == len(named)
    held = await entities(world.url, world.control, who.tenant)
    assert sorted((each["id"], each["generation"]) for each in held) == sorted(named)
    return len(held)


async def test_a_kill_at_each_step_leaves_the_old_version_or_the_new_one_whole(
    world: World, principal: Principal, tmp_path: Path
) -> None:
    vectors = world.vectors
    for number in range(len(STEPS)):
        await vectors.add(
            principal, "s", f"old{number}", document=f"d{number}", metadata={"n": number}
        )
    jobs = [(*step, number) for number, step in enumerate(STEPS)]
    # A collector takes whatever is due, also of another one: there is one at a time.
    ends = await world.run([job for job in jobs if job[0] not in COLLECTING])
    ends += await world.run([job for job in jobs if job[0] in COLLECTING], 1)
    assert ends == [KILLED] * len(STEPS)
    for number, (point, when, _) in enumerate(STEPS):
        there = is_there(point, when)
        wanted = new_text(number) if there else f"old{number}"
        # Before anything is collected.
        assert await whole(world, principal, number) == wanted, (point, when)
    left = await waiting(world.control, principal.tenant)
    held = await check_nothing_else(world, principal)
    print(f"{len(STEPS)} kills; {left} remains collected, {held} entries held")
    assert left
    # Whoever comes again writes what was not there.
    for number in range(len(STEPS)):
        await vectors.add(
            principal, "s", new_text(number), document=f"d{number}", metadata={"n": number}
        )
    await check_nothing_else(world, principal)
    assert set(answered(tmp_path)) == {
        number
        for number, (point, when, _) in enumerate(STEPS)
        if is_there(point, when) and point != "commit"
    }


@pytest.mark.timeout(900 if LONG else 240)
async def test_kills_at_any_moment_lose_nothing_that_was_answered(
    world: World, principal: Principal, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    written = 0
    for _ in range(ROUNDS):
        (tmp_path / "log").unlink(missing_ok=True)
        jobs = [
            ("random", dice.uniform(0.2, 1.5), first, first + EACH - 1)
            for first in range(0, AT_ONCE * EACH, EACH)
        ]
        assert await world.run(jobs) == [KILLED] * AT_ONCE
        done = answered(tmp_path)
        written += len((tmp_path / "log").read_text().splitlines()) if done else 0
        for number, turn in done.items():
            body = await whole(world, principal, number)
            assert body in {new_text(number, turn), new_text(number, turn + 1)}
        await check_nothing_else(world, principal)
    print(f"{ROUNDS} rounds of {AT_ONCE} kills; {written} writes answered")
