"""Erasing a tenant: nothing of it is left anywhere, however often the erasure is killed, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.doors import raw
from tests.e2e.belongings import fill, holds_everything, isthmus, make_key
from tests.e2e.processes import ServeProcess, environment


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def server(data_dir: Path) -> AsyncIterator[ServeProcess]:
    server = ServeProcess(data_dir)
    try:
        await asyncio.to_thread(server.wait_ready)
        yield server
    finally:
        await asyncio.to_thread(server.stop)


def left(data_dir: Path, tenant: str) -> dict[str, int]:
    proof = isthmus(data_dir, "doctor", "--erasure", tenant, "--json")
    found = {place: n for place, n in json.loads(proof.stdout)["left"].items() if n}
    assert proof.returncode == (1 if found else 0)
    return found


async def test_nothing_of_an_erased_tenant_is_left_and_nobody_else_notices(
    data_dir: Path, server: ServeProcess, http: aiohttp.ClientSession
) -> None:
    doomed, other = make_key(data_dir, "doomed"), make_key(data_dir, "other")
    for key in (doomed, other):
        await fill(http, server, key)
    before = await asyncio.to_thread(left, data_dir, "doomed")
    places = ("kv", "objects", "documents", "chunks", "agents", "runs", "audit", "api_keys")
    assert {f"control: {name}" for name in places} < set(before)
    assert before["sql: schemas"] == 1

    async def write_on() -> int:
        """Write until the key is dead."""
        for number in range(100_000):
            answer = await raw.call(
                http, server.url, doomed, "kv_set", {"key": "k", "value": number}
            )
            if answer.status == 401:
                return number
        raise AssertionError("the key never died")

    writing = asyncio.create_task(write_on())
    erased = await asyncio.to_thread(
        isthmus, data_dir, "tenants", "delete", "doomed", "--yes", "--json"
    )
    assert erased.returncode == 0, erased.stderr + erased.stdout
    assert await asyncio.wait_for(writing, 5) > 0
    assert json.loads(erased.stdout)["left"] == {}
    assert json.loads(erased.stdout)["erased"]["blobs"] >= 1
    assert await asyncio.to_thread(left, data_dir, "doomed") == {}
    await holds_everything(http, server, other)
    # The name is free for somebody else, who finds nothing.
    again = await asyncio.to_thread(make_key, data_dir, "doomed")
    answer = await raw.call(http, server.url, again, "kv_get", {"key": "kept"})
    assert answer.result["isError"]
    await fill(http, server, again)
    await holds_everything(http, server, again)


async def test_an_erasure_that_is_killed_is_ended_by_the_next_one(
    data_dir: Path, server: ServeProcess, http: aiohttp.ClientSession
) -> None:
    doomed, other = make_key(data_dir, "doomed"), make_key(data_dir, "other")
    for key in (doomed, other):
        await fill(http, server, key)
    arguments = ("tenants", "delete", "doomed", "--yes", "--json")
    for _ in range(3):
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "mcp_server", *arguments],
            env=environment(data_dir),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await asyncio.sleep(random.uniform(1.5, 6.0))
        process.kill()
        process.wait()
    refused = await asyncio.to_thread(
        isthmus, data_dir, "keys", "create", "x", "--tenant", "doomed"
    )
    tenants = json.loads(
        (await asyncio.to_thread(isthmus, data_dir, "tenants", "list", "--json")).stdout
    )
    names = {row["name"]: row["erasing"] for row in tenants}
    if "doomed" in names:  # else a kill came too late
        assert names["doomed"] is (refused.returncode == 1)
        assert not refused.returncode or "being erased" in refused.stderr
        ended = await asyncio.to_thread(isthmus, data_dir, *arguments)
        assert ended.returncode == 0, ended.stderr + ended.stdout
    assert await asyncio.to_thread(left, data_dir, "doomed") == {}
    await holds_everything(http, server, other)


def test_what_cannot_be_erased_is_refused_with_the_reason(data_dir: Path) -> None:
    for arguments, code, words in (
        (("tenants", "delete", "default", "--yes"), 1, "cannot be erased"),
        (("tenants", "delete", "nobody", "--yes"), 1, "does not exist"),
        (("tenants", "delete", "nobody"), 2, "--yes"),
    ):
        refused = isthmus(data_dir, *arguments)
        assert (refused.returncode, words in refused.stderr) == (code, True), refused
        assert "Traceback" not in refused.stderr
