"""A client of the older transport that does not read its answers is not given more of them to leave unread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mcp_server.transports import backlog
from tests.doors import raw
from tests.doors.fixtures import PLUGIN, Record, make_key, until
from tests.doors.live import Live, open_live

BIG = 1_000_000


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "backlog", plugins=(PLUGIN,), llm_url=("scripted:",)) as live:
        async with raw.open_http() as http:
            value = {"key": "big", "value": "x" * BIG}
            assert "result" in (await raw.call(http, live.url, live.key, "kv_set", value)).message
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


class Unread(raw.SseSession):
    """A connection whose stream is read only when the test says so."""

    async def open(self, stream: aiohttp.ClientResponse) -> Unread:
        self.stream = raw.EventStream(stream)
        self.endpoint = (await self.stream.next())[1]
        assert (await self.post(raw.initialize())).status == 202
        await self.stream.message()
        assert (await self.post(raw.INITIALIZED)).status == 202
        return self

    async def send(self, number: Any, tool: str, arguments: dict[str, Any]) -> raw.Reply:
        call = {"name": tool, "arguments": arguments}
        return await self.post(raw.request("tools/call", call, number))

    async def read(self, expected: set[Any]) -> None:
        """Read until all these answers came."""
        while expected:
            message = await self.stream.message(30)
            expected.discard(message.get("id"))


@pytest.fixture
async def session(live: Live, http: aiohttp.ClientSession) -> AsyncIterator[Unread]:
    timeout = aiohttp.ClientTimeout(total=None)
    # One whole answer in one line; the client's buffer is what it reads ahead.
    async with http.get(
        f"{live.url}/sse", headers=live.headers, timeout=timeout, read_bufsize=4 * BIG
    ) as answer:
        yield await Unread(http, live.url, live.key).open(answer)


async def test_large_answers_that_nobody_reads_are_bounded(session: Unread) -> None:
    accepted: set[Any] = set()
    refused: raw.Reply | None = None
    for number in range(150):
        posted = await session.send(number, "kv_get", {"key": "big"})
        if posted.status != 202:
            refused = posted
            break
        accepted.add(number)
        await asyncio.sleep(0.02)  # so that each is answered before the next
    assert refused is not None
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    assert "read the stream" in refused.error["message"]
    # What the client and the system buffer comes on top.
    assert len(accepted) <= backlog.MOST_BYTES // BIG + 30
    await session.read(set(accepted))
    assert (await session.send("again", "kv_get", {"key": "big"})).status == 202
    await session.read({"again"})


async def test_calls_in_progress_are_bounded(
    session: Unread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MOST_MESSAGES", 5)
    records = [Record(tmp_path / str(number)) for number in range(5)]
    for number, record in enumerate(records):
        assert (await session.send(number, "wait", record.arguments)).status == 202
        await record.started()
    assert (await session.send("more", "kv_list", {"prefix": "none"})).status == 503
    await session.stream.answer.release()
    for record in records:
        await record.cancelled()


@pytest.mark.parametrize("form", ["{{{0}}}", "urn:uuid:{0}", "{1}"])
async def test_another_way_to_write_the_session_is_the_same_session(
    session: Unread, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(backlog, "MOST_MESSAGES", 0)
    path, _, name = session.endpoint.partition("=")
    session.endpoint = f"{path}={form.format(name, name.upper())}"
    assert (await session.send(1, "kv_list", {"prefix": "none"})).status == 503


async def test_one_connection_does_not_slow_another(
    live: Live, http: aiohttp.ClientSession, session: Unread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MOST_BYTES", BIG)
    number = 0
    while (await session.send(number, "kv_get", {"key": "big"})).status == 202:
        number += 1
        assert number < 60
        await asyncio.sleep(0.01)
    key = (await make_key(live, "read"))["key"]
    async with raw.open_sse(http, live.url, key) as other:
        assert "result" in await other.call("kv_list", {"prefix": "none"})
    await session.read(set(range(number)))


async def test_calls_one_after_the_other_are_never_refused(
    live: Live, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MOST_MESSAGES", 2)
    async with raw.open_sse(http, live.url, live.key) as session:
        for _ in range(50):
            assert "result" in await session.call("kv_list", {"prefix": "none"})


async def test_a_closed_connection_leaves_nothing_behind(
    live: Live, http: aiohttp.ClientSession
) -> None:
    endpoint: Any = next(
        route.endpoint for route in live.http.gate.routes if route.path == "/messages/"
    )
    backlogs = endpoint._backlogs
    async with raw.open_sse(http, live.url, live.key) as session:
        name = session.endpoint.partition("=")[2]
        assert name in backlogs
    await until(lambda: name not in backlogs)
