"""The journal under many writers: every follower, in any process, gets each entry once, in one order."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
from mcp.server.subscriptions import ResourceUpdated, ServerEvent
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal, acting_as
from mcp_server.operation import Operations
from mcp_server.runs.following import Following
from mcp_server.services.changes import ChangeService
from mcp_server.storage.sql.control import open_pool
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.wake import open_wake
from mcp_server.updates import Updates
from tests.contract.journal_writers import Written, broken_chains, open_writers

LONG = os.environ.get("TEST_LENGTH") == "long"
WRITERS = 32
SECONDS = 120.0 if LONG else 6.0
PROCESSES = 3
NO_RUNS = cast("Any", None)

Page = Callable[[str | None], Awaitable[tuple[list[Written], str | None]]]


@pytest.fixture
async def pool(cluster: Cluster, control: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """A connection for each writer; `control` has made the tables."""
    async with open_pool(cluster.control_url, pool_size=WRITERS, overflow=0) as pool:
        yield pool


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


class Follower:
    """Reads page after page until it is told that the writers are done, and then to the end."""

    def __init__(self, page: Page, pause: float) -> None:
        self.seen: list[Written] = []
        self._page = page
        self._pause = pause
        self._done = asyncio.Event()
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        position: str | None = None
        while True:
            last = self._done.is_set()
            entries, position = await self._page(position)
            self.seen += entries
            if last and not entries:
                return
            await asyncio.sleep(self._pause)

    async def finish(self) -> list[Written]:
        self._done.set()
        await self._task
        return self.seen


class FollowerProcess:
    """The same in a process of its own."""

    process: asyncio.subprocess.Process

    async def start(self, url: str, tenant: str) -> FollowerProcess:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.contract.journal_follower", url, tenant),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert await self.process.stdout.readline() == b"ready\n"
        return self

    async def finish(self) -> list[Written]:
        async with asyncio.timeout(60):
            out, _ = await self.process.communicate(b"")
        assert self.process.returncode == 0
        fields = [line.split() for line in out.decode().splitlines()]
        return [Written(uri, int(version), int(prev) or None) for uri, version, prev in fields]


def rows_of(control: AsyncEngine, principal: Principal, dice: random.Random) -> Page:
    async def page(after: str | None) -> tuple[list[Written], str | None]:
        rows, last = await journal.read(control, principal.tenant, after, dice.randrange(1, 40))
        return [Written(row["uri"], row["version"], row["prev_version"]) for row in rows], last

    return page


def changes_of(service: ChangeService, principal: Principal, filter: dict[str, Any] | None) -> Page:  # noqa: A002
    async def page(after: str | None) -> tuple[list[Written], str | None]:
        found = await service.list(principal, after=after, limit=9, filter=filter)
        items = [
            Written(item["uri"], item["version"], item["prev_version"])  # pyright: ignore[reportArgumentType]
            for item in found["items"]
        ]
        return items, found["next_after"]

    return page


def plain_sequence(control: AsyncEngine, tenant: str) -> Page:
    """The reader that one writes first: what is wrong with it is what this file is about."""
    query = text(
        "select seq, uri, version, prev_version from journal"
        " where tenant = :tenant and seq > :after order by seq limit 20"
    )

    async def page(after: str | None) -> tuple[list[Written], str | None]:
        async with control.connect() as connection:
            rows = await connection.execute(query, {"tenant": tenant, "after": int(after or 0)})
            found = rows.all()
        entries = [Written(row.uri, row.version, row.prev_version) for row in found]
        return entries, str(found[-1].seq) if found else after

    return page


class Ear:
    """A listener of the subscription bus, which hears of URIs, one by one, with the rights it has."""

    def __init__(self, updates: Updates, principal: Principal) -> None:
        self.heard: Counter[str] = Counter()
        with acting_as(principal):
            updates.subscribe(self._hear)

    def _hear(self, event: ServerEvent) -> None:
        assert isinstance(event, ResourceUpdated)
        self.heard[str(event.uri)] += 1

    async def hears(self, wanted: list[Written]) -> None:
        """Return when each was heard once; waits for what is missing, and refuses what is too much."""
        expected = Counter(item.uri for item in wanted)
        async with asyncio.timeout(10):
            while self.heard.total() < expected.total():
                await asyncio.sleep(0.02)
        assert self.heard == expected


async def test_under_many_writers_every_follower_gets_each_entry_once_and_in_one_order(
    control: AsyncEngine,
    cluster: Cluster,
    pool: AsyncEngine,
    operations: Operations,
    principal: Principal,
    stranger: Principal,
    stack: AsyncExitStack,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    service = ChangeService(operations, control)
    some = Principal(principal.tenant, "some", frozenset({"read:kv://stress/1*"}))
    processes = [
        await FollowerProcess().start(cluster.control_url, principal.tenant)
        for _ in range(PROCESSES)
    ]
    one_key = {"type": "eq", "key": "uri", "value": "kv://stress/7"}
    followers = {
        "quick": Follower(rows_of(control, principal, random.Random(seed)), 0),
        "slow": Follower(rows_of(control, principal, random.Random(seed + 1)), 0.1),
        "changes": Follower(changes_of(service, principal, None), 0.01),
        "scoped": Follower(changes_of(service, some, None), 0.02),
        "filtered": Follower(changes_of(service, principal, one_key), 0.02),
        "stranger": Follower(changes_of(service, stranger, None), 0.1),
    }
    wake = await stack.enter_async_context(open_wake(cluster.control_url))
    updates = Updates()
    await stack.enter_async_context(updates.following(control, wake, Following(NO_RUNS, wake)))
    await updates.prepare()
    ears = {who: Ear(updates, who) for who in (principal, some, stranger)}
    planted = Follower(plain_sequence(control, principal.tenant), 0)
    async with open_writers(pool, principal, seed) as writers:
        await writers.run(WRITERS, SECONDS)
    seen = {name: await follower.finish() for name, follower in followers.items()}
    for number, process in enumerate(processes):
        seen[f"process {number}"] = await process.finish()
    written = writers.written
    print(f"{len(written)} entries, {writers.rolled_back} transactions rolled back")
    assert len(written) > 100
    assert writers.rolled_back
    whole = seen["quick"]
    assert Counter(whole) == Counter(written)
    assert broken_chains(whole) == []
    for name in ("slow", "changes", *(f"process {number}" for number in range(PROCESSES))):
        assert seen[name] == whole, name
    assert seen["scoped"] == [item for item in whole if item.uri.startswith("kv://stress/1")]
    assert seen["filtered"] == [item for item in whole if item.uri == "kv://stress/7"]
    assert seen["stranger"] == []
    await ears[principal].hears(whole)
    await ears[some].hears(seen["scoped"])
    assert not ears[stranger].heard
    # The same writers catch a reader that goes by the sequence alone.
    naive = await planted.finish()
    assert Counter(naive) != Counter(written)
    assert broken_chains(naive)
