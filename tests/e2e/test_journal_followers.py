"""Clients that watch resources through two servers, while many write: each hears of each change once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import OWNER
from mcp_server.storage.sql.control import open_pool
from mcp_server.storage.sql.embedded import open_cluster
from tests.contract.journal_writers import KEYS, Writers, broken_chains, open_writers
from tests.doors import raw
from tests.doors.test_subscriptions import EARS, Ear, watch
from tests.e2e.processes import LONG, ServeProcess

WRITERS = 32
SECONDS = 60.0 if LONG else 4.0
KEY = "a-key-for-the-test-of-followers"
URIS = [f"kv://stress/{number}" for number in range(KEYS)]


@pytest.fixture
def servers(data_dir: Path) -> Any:
    servers = [ServeProcess(data_dir, API_KEY=KEY) for _ in range(2)]
    try:
        for server in servers:
            server.wait_ready()
        yield servers
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
async def pool(servers: list[ServeProcess], data_dir: Path) -> AsyncIterator[AsyncEngine]:
    async with (
        open_cluster(data_dir) as cluster,
        open_pool(cluster.control_url, pool_size=WRITERS, overflow=0) as pool,
    ):
        yield pool


async def listen(ear: Ear, heard: Counter[str]) -> None:
    while True:
        heard[await ear.heard(120)] += 1


async def changes(http: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """Everything that the tool tells of the keys, page by page."""
    found: list[dict[str, Any]] = []
    arguments: dict[str, Any] = {
        "filter": {"type": "eq", "key": "uri", "value": "kv://stress/*"},
        "limit": 200,
    }
    while True:
        page = (await raw.call(http, url, KEY, "changes", arguments)).result["structuredContent"]
        found += page["items"]
        if not page["items"]:
            return found
        arguments["after"] = page["next_after"]


async def test_each_watcher_at_each_server_hears_of_each_change_once(
    servers: list[ServeProcess], pool: AsyncEngine
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    heard: dict[tuple[int, str], Counter[str]] = {}
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(raw.open_http())
        for number, server in enumerate(servers):
            for kind in EARS:
                live = cast("Any", SimpleNamespace(url=server.url))
                ear = await watch(stack, http, live, kind, KEY, *URIS)
                counter = heard[number, kind] = Counter()
                task = asyncio.create_task(listen(ear, counter))
                stack.callback(task.cancel)
        writers: Writers = await stack.enter_async_context(open_writers(pool, OWNER, seed))
        await writers.run(WRITERS, SECONDS)
        expected = Counter(item.uri for item in writers.written)
        async with asyncio.timeout(20):
            while any(counter.total() < expected.total() for counter in heard.values()):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # for what would come twice
        for which, counter in heard.items():
            assert counter == expected, which
        told = [await changes(http, server.url) for server in servers]
    print(f"{expected.total()} changes, {len(heard)} watchers")
    assert told[0] == told[1]
    assert Counter(item["version"] for item in told[0]) == Counter(
        item.version for item in writers.written
    )
    by_version = {item.version: item for item in writers.written}
    assert broken_chains([by_version[item["version"]] for item in told[0]]) == []
