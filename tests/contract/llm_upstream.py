"""A real HTTP server on loopback that answers as a test tells it to, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp_server.llm import Chunk
from mcp_server.llm.openai_compatible import OpenAICompatible, open_openai_compatible

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "x_y": 1}
EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass
class Exchange:
    """One request, and the connection to answer it on."""

    line: str
    headers: dict[str, str]
    body: Any
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        await asyncio.sleep(0)  # so that each piece travels alone

    async def send_json(self, status: int, payload: Any, headers: str = "") -> None:
        text = json.dumps(payload).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}"
        await self.send(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)

    async def send_events(self, *events: object) -> None:
        for event in events:
            await self.send(data(event))


Answer = Callable[[Exchange], Awaitable[None]]


@dataclass
class Upstream:
    """`url` ends in /v1; `exchanges` holds what was asked."""

    url: str
    port: int
    exchanges: list[Exchange] = field(default_factory=list)


@asynccontextmanager
async def serving(answer: Answer, port: int = 0) -> AsyncIterator[Upstream]:
    """Serve until the end of the block; a connection is kept if `answer` leaves it open."""
    upstream = Upstream("", 0)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while exchange := await _read(reader, writer):
                upstream.exchanges.append(exchange)
                watch = asyncio.create_task(_watch(reader, exchange))
                await answer(exchange)
                keep = not writer.is_closing() and not exchange.gone.is_set()
                watch.cancel()
                if not keep or exchange.headers.get("x-close"):
                    break
                await asyncio.wait([watch])
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    upstream.port = server.sockets[0].getsockname()[1]
    upstream.url = f"http://127.0.0.1:{upstream.port}/v1"
    try:
        yield upstream
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def data(event: object) -> bytes:
    text = event if isinstance(event, str) else json.dumps(event)
    return f"data: {text}\n\n".encode()


def chunk(text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [choice]}


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Exchange(head[0], headers, json.loads(body) if body else None, writer)


async def _watch(reader: asyncio.StreamReader, exchange: Exchange) -> None:
    # A client that waits sends nothing: the end of its stream means that it left.
    try:
        if not await reader.read(1):
            exchange.gone.set()
    except ConnectionError:
        exchange.gone.set()


@asynccontextmanager
async def asking(
    answer: Answer, key: str | None = "sk-upstream"
) -> AsyncIterator[tuple[OpenAICompatible, Upstream]]:
    async with serving(answer) as upstream, open_openai_compatible(upstream.url, key) as model:
        yield model, upstream


async def everything(model: OpenAICompatible) -> list[Chunk]:
    async with aclosing(model.stream(REQUEST)) as chunks:
        return [each async for each in chunks]
