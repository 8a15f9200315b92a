"""Bodies on their way in: how much memory they may take together, and what becomes of those without an end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from mcp_server import request_body
from tests.doors import raw
from tests.doors.fixtures import make_key, until
from tests.doors.live import Live, open_live

MOST = 1_000_000
PATHS = ("/mcp", "/messages/?session_id=00000000000000000000000000000000", "/v1/chat/completions")


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    # Room for four bodies; one key may fill two.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_body, "LEAST_ROOM", 0)
        async with open_live(
            scratch / "bodies", llm_url=("scripted:",), max_body_bytes=MOST
        ) as live:
            yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


def head(live: Live, key: str, path: str, length: int | None, more: str = "") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {live.url.removeprefix('http://')}",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Accept: {raw.BOTH}",
        size,
    ]
    return ("\r\n".join(lines) + f"\r\n{more}\r\n").encode()


@asynccontextmanager
async def posting(
    live: Live, key: str, path: str, sent: int, length: int | None = MOST
) -> AsyncIterator[asyncio.StreamReader]:
    """Send the beginning of a body and no more."""
    host, _, port = live.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b"x" * sent if length is not None else b"%x\r\n%s\r\n" % (sent, b"x" * sent)
    writer.write(head(live, key, path, length) + body)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.transport.abort()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, str, str]:
    async with asyncio.timeout(10):
        top = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.partition(":")[2])
            for line in top.lower().split("\r\n")
            if line.startswith("content-length")
        )
        body = (await reader.readexactly(length)).decode()
    return int(top.split()[1]), top.lower(), body


@pytest.mark.parametrize("length", [MOST, None], ids=["declared", "chunked"])
@pytest.mark.parametrize("path", PATHS)
async def test_unfinished_bodies_of_one_key_fill_half_of_the_room(
    live: Live, http: aiohttp.ClientSession, path: str, length: int | None
) -> None:
    greedy, other = [(await make_key(live))["key"] for _ in range(2)]
    bodies = live.http.gate.bodies
    async with AsyncExitStack() as stack:
        for number in range(2):
            await stack.enter_async_context(posting(live, greedy, path, 900_000, length))
            await until(lambda number=number: bodies.held == (number + 1) * 900_000)
        reader = await stack.enter_async_context(posting(live, greedy, path, 900_000, length))
        status, headers, body = await answer_of(reader)
        assert status == 503
        assert "\r\nretry-after: 1\r\n" in headers
        assert "try again" in json.loads(body)["error"]["message"]
        assert bodies.held <= 2 * MOST
        # Another key has the other half.
        await stack.enter_async_context(posting(live, other, path, 900_000, length))
        await until(lambda: bodies.held >= 3 * 900_000)
        assert "result" in (await raw.call(http, live.url, other, "kv_list", {})).message
    await until(lambda: bodies.held == 0)
    big = {"key": "big", "value": "x" * 900_000}
    for _ in range(10):
        assert "result" in (await raw.call(http, live.url, greedy, "kv_set", big)).message
    assert bodies.held == 0


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_stops_in_the_middle_is_given_up(
    live: Live, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "STALL_SECONDS", 0.3)
    async with posting(live, live.key, path, 1000) as reader:
        status, _, body = await answer_of(reader)
        assert status == 408
        assert "no more of the body came" in json.loads(body)["error"]["message"]
        assert live.http.gate.bodies.held == 0


@pytest.mark.parametrize("length", [MOST, None], ids=["declared", "chunked"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_in_mid_body_leaves_no_trace(
    live: Live, path: str, length: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    bodies = live.http.gate.bodies
    with caplog.at_level(logging.INFO):
        async with posting(live, live.key, path, 1000, length):
            await until(lambda: bodies.held == 1000)
        await until(lambda: bodies.held == 0)
    told = [record for record in caplog.records if record.exc_info or record.levelno >= 30]
    assert told == []


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_request_that_opens_a_stream_takes_no_body(
    live: Live, http: aiohttp.ClientSession, path: str
) -> None:
    headers = {**live.headers, "Accept": "text/event-stream"}
    refused = await raw.send(http, "GET", live.url + path, headers=headers, data=b"x")
    assert refused.status == 400
    assert "takes no body" in refused.error["message"]
