"""The head of a request is bounded in size and time, before anybody is asked for a key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mcp_server.transports import bounded_head
from tests.doors.live import serving

HOST = b"Host: 127.0.0.1\r\n"
# One read of the socket may come on top of the bound, and what the system buffers on the way.
MOST_SENT = 8_000_000


@pytest.fixture(scope="module")
async def address(anyio_backend: object) -> AsyncIterator[tuple[str, int]]:
    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    async def headers(request: Request) -> PlainTextResponse:
        return PlainTextResponse(" ".join(request.headers))

    routes = [
        Route("/", echo, methods=["GET", "POST"]),
        Route("/headers", headers, methods=["POST"]),
    ]
    async with serving(Starlette(routes=routes)) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


FLOODS: dict[str, tuple[bytes, bytes]] = {
    "one header": (b"GET / HTTP/1.1\r\n" + HOST + b"X: ", b"a" * 65536),
    "many headers": (b"GET / HTTP/1.1\r\n" + HOST, b"X: y\r\n" * 10_000),
    "a name": (b"GET / HTTP/1.1\r\n" + HOST, b"a" * 65536),
    "the address": (b"GET /", b"a" * 65536),
    "after another request": (
        b"GET / HTTP/1.1\r\n" + HOST + b"\r\nGET / HTTP/1.1\r\n",
        b"X: y\r\n" * 10_000,
    ),
    "trailers": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n1\r\nb\r\n0\r\n",
        b"X: y\r\n" * 10_000,
    ),
    "one trailer": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n1\r\nb\r\n0\r\nX: ",
        b"a" * 65536,
    ),
    "a chunk's extension": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n1;x=",
        b"a" * 65536,
    ),
    "blank lines": (b"", b"\r\n" * 10_000),
}


@pytest.mark.parametrize("case", FLOODS)
async def test_a_head_without_an_end_is_cut_off(address: tuple[str, int], case: str) -> None:
    begin, more = FLOODS[case]
    reader, writer = await asyncio.open_connection(*address)
    sent = 0
    try:
        writer.write(begin)
        async with asyncio.timeout(10):
            while sent < MOST_SENT and not reader.at_eof():
                writer.write(more)
                await writer.drain()
                sent += len(more)
                await asyncio.sleep(0)
    except ConnectionError:
        return
    finally:
        writer.transport.abort()
    assert sent < MOST_SENT


async def test_a_client_that_stops_at_the_bound_is_told_why(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET / HTTP/1.1\r\n" + HOST)
    for _ in range(14):
        await writer.drain()
        await asyncio.sleep(0.01)  # so that it is read in pieces
        writer.write(b"X: " + b"a" * 5000 + b"\r\n")
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_a_large_head_is_served(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    headers = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(50))
    writer.write(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + headers + b"\r\n")
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_large_body_before_the_next_head_does_not_count(
    address: tuple[str, int],
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    body = b"b" * 3_000_000
    post = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    last = b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST
    writer.write(post + post + last)
    await writer.drain()
    writer.write(b"\r\n")
    async with asyncio.timeout(10):
        answers = await reader.read()
    assert answers.count(b"HTTP/1.1 200 ") == 3
    writer.close()


WHOLE = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


async def test_a_blank_line_after_a_request_does_not_hold_the_connection(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_head, "HEAD_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(WHOLE)
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n0")
        writer.write(b"\r\n")
        assert await reader.read() == b""
    writer.close()


async def test_a_body_that_nobody_reads_does_not_hold_the_connection(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_head, "HEAD_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"POST /none HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n")
    begun = time.monotonic()
    async with asyncio.timeout(5):
        await reader.readuntil(b"Not Found")
        while not writer.is_closing():
            writer.write(b"b")
            await asyncio.sleep(0.02)
    assert time.monotonic() - begun >= 0.25
    writer.close()


async def test_trailers_are_no_headers(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    chunked = b"Transfer-Encoding: chunked\r\nConnection: close\r\n"
    body = b"\r\n1\r\nb\r\n0\r\nX-Late: y\r\n\r\n"
    writer.write(b"POST /headers HTTP/1.1\r\nX-Early: y\r\n" + chunked + HOST + body)
    async with asyncio.timeout(5):
        answer = (await reader.read()).lower()
    assert b"x-early" in answer
    assert b"x-late" not in answer
    writer.close()


@pytest.mark.parametrize("said", [b"", b"GE", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
async def test_a_head_that_dawdles_is_given_up(
    address: tuple[str, int], said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_head, "HEAD_SECONDS", 0.3)
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection(*address)
    writer.write(said)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    assert time.monotonic() - begun >= 0.25
    writer.close()


async def test_a_body_that_dawdles_is_waited_for(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_head, "HEAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"POST / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"Content-Length: 4\r\n\r\n")
    for byte in (b"a", b"b", b"c", b"d"):
        await asyncio.sleep(0.15)
        writer.write(byte)
        await writer.drain()
    async with asyncio.timeout(5):
        assert (await reader.read()).endswith(b"4")
    writer.close()
