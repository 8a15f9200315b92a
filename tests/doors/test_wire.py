"""What our server does on the socket: heads with the bytes behind them, and clients that leave."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from mcp_server.leaving import told_of_leaving
from tests.doors.live import serving

LARGE = b"x" * 300_000
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Answers:
    """An application with an answer of each kind; `left` counts clients that left, `goes_on` ends a stream."""

    def __init__(self) -> None:
        self.begun = 0
        self.left = 0
        self.goes_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        match scope["path"]:
            case "/waits":
                await self._wait(scope, receive, send)
            case "/stream":
                await _begin(send)
                await self.goes_on.wait()
                await _body(send, b"later", more=True)
                await _body(send, b" and last")
            case "/breaks":
                await _begin(send)
                raise RuntimeError("after the head")
            case path:
                body = LARGE if path == "/large" else path.encode()
                await _begin(send, body)
                await _body(send, body)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.Event()
        with told_of_leaving(scope, receive, gone.set):
            self.begun += 1
            await gone.wait()
        self.left += 1
        await _begin(send, b"")
        await _body(send, b"")


async def _begin(send: Send, body: bytes | None = None) -> None:
    length = [] if body is None else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": length})


async def _body(send: Send, body: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def address(answers: Answers) -> AsyncIterator[tuple[str, int]]:
    async with serving(answers) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(30):
            yield reader, writer
    finally:
        writer.close()


def ask(path: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def test_a_head_whose_body_waits_is_sent_before_it(
    address: tuple[str, int], answers: Answers
) -> None:
    async with connected(address) as (reader, writer):
        writer.write(ask("/stream"))
        assert b"transfer-encoding: chunked" in await head_of(reader)
        answers.goes_on.set()
        assert await reader.readuntil(b"0\r\n\r\n") == (
            b"5\r\nlater\r\n9\r\n and last\r\n0\r\n\r\n"
        )


async def test_answers_on_one_connection_come_whole_and_in_their_order(
    address: tuple[str, int],
) -> None:
    paths = ["/a", "/large", "/b", "/c"]
    async with connected(address) as (reader, writer):
        writer.write(b"".join(map(ask, paths)))  # all before the first answer
        for path in paths:
            expected = LARGE if path == "/large" else path.encode()
            assert b"content-length: %d" % len(expected) in await head_of(reader)
            assert await reader.readexactly(len(expected)) == expected
        for method in ("HEAD", "GET"):
            writer.write(ask("/d", method))
            assert b"content-length: 2" in await head_of(reader)
        assert await reader.readexactly(2) == b"/d"


async def test_a_client_that_asks_whether_to_go_on_is_told_so_first(
    address: tuple[str, int],
) -> None:
    async with connected(address) as (reader, writer):
        writer.write(ask("/a", "POST", "Expect: 100-continue\r\nContent-Length: 3\r\n"))
        assert await head_of(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await head_of(reader)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await reader.readexactly(2) == b"/a"


@pytest.mark.parametrize("path", ["/a", "/large"])
async def test_the_last_answer_of_a_connection_is_whole(
    address: tuple[str, int], path: str
) -> None:
    async with connected(address) as (reader, writer):
        writer.write(ask(path, more="Connection: close\r\n"))
        answer = await reader.read()
    assert answer.endswith(LARGE if path == "/large" else b"\r\n\r\n/a")


async def test_an_answer_that_breaks_after_its_head_is_cut(address: tuple[str, int]) -> None:
    async with connected(address) as (reader, writer):
        writer.write(ask("/breaks"))
        answer = await reader.read()
    assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("size", [0, 300_000])
@pytest.mark.parametrize("behind", [b"", ask("/a")])
async def test_who_waits_for_it_is_told_that_a_client_left(
    address: tuple[str, int],
    answers: Answers,
    size: int,
    behind: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def requests() -> int:
        return sum(isinstance(each, RequestResponseCycle) for each in gc.get_objects())

    gc.collect()
    gc.disable()  # what is left behind must go without it
    before = requests()
    async with connected(address) as (_, writer):
        body = b"x" * size  # at its end uvicorn reads no more for a while
        writer.write(ask("/waits", "POST", f"Content-Length: {size}\r\n") + body + behind)
        while not answers.begun:
            await asyncio.sleep(0.01)
        assert not answers.left
    try:
        with anyio.fail_after(30):
            while not answers.left or requests() > before:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == []


async def test_under_another_server_the_disconnect_is_waited_for() -> None:
    left = asyncio.Event()

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    with told_of_leaving({}, receive, left.set), anyio.fail_after(30):
        await left.wait()
