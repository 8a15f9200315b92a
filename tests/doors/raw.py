"""Cheap clients that send exactly what a test wants: JSON-RPC over plain HTTP, for each of the doors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp

MODERN, HANDSHAKE = "2026-07-28", "2025-11-25"
BOTH = "application/json, text/event-stream"
META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_NAMES = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

Message = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """One HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def message(self) -> Message:
        """The JSON-RPC message in it: the body, or the last event of a stream."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return events(self.body)[-1]
        return json.loads(self.body)

    @property
    def result(self) -> dict[str, Any]:
        assert "result" in self.message, self.body[:1000]
        return self.message["result"]

    @property
    def error(self) -> dict[str, Any]:
        assert "error" in self.message, self.body[:1000]
        return self.message["error"]


def events(text: str) -> list[Message]:
    lines = text.replace("\r\n", "\n").split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def text_of(result: dict[str, Any]) -> str:
    return "\n".join(item.get("text", "") for item in result["content"])


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def request(method: str, params: dict[str, Any] | None = None, message_id: Any = 1) -> Message:
    return {"jsonrpc": "2.0", "id": message_id, "method": method, "params": params or {}}


def modern_request(
    method: str, params: dict[str, Any] | None = None, message_id: Any = 1
) -> Message:
    given = dict(params or {})
    return request(method, {**given, "_meta": {**META, **given.get("_meta", {})}}, message_id)


def modern_headers(
    key: str | None, method: str, params: dict[str, Any] | None = None
) -> dict[str, str]:
    named = _NAMES.get(method)
    name = {} if named is None or params is None else {"Mcp-Name": str(params[named])}
    return {
        **bearer(key),
        **name,
        "Accept": BOTH,
        "Content-Type": "application/json",
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": method,
    }


@asynccontextmanager
async def open_http() -> AsyncGenerator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=60)
    ) as http:
        yield http


async def send(http: aiohttp.ClientSession, method: str, url: str, **options: Any) -> Reply:
    async with http.request(method, url, allow_redirects=False, **options) as answer:
        body = await answer.read()
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(answer.status, headers, body.decode("utf-8", "surrogateescape"))


async def modern(
    http: aiohttp.ClientSession,
    url: str,
    key: str | None,
    method: str,
    params: dict[str, Any] | None = None,
    message_id: Any = 1,
) -> Reply:
    """One request of the 2026-07-28 era."""
    return await send(
        http,
        "POST",
        f"{url}/mcp",
        data=json.dumps(modern_request(method, params, message_id)),
        headers=modern_headers(key, method, params),
    )


async def call(
    http: aiohttp.ClientSession, url: str, key: str | None, tool: str, arguments: dict[str, Any]
) -> Reply:
    return await modern(http, url, key, "tools/call", {"name": tool, "arguments": arguments})


def initialize(capabilities: dict[str, Any] | None = None) -> Message:
    info = {"name": "raw", "version": "1"}
    return request(
        "initialize",
        {"protocolVersion": HANDSHAKE, "capabilities": capabilities or {}, "clientInfo": info},
        "init",
    )


INITIALIZED: Message = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class EventStream:
    """The events of one open answer, read one by one."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self, seconds: float = 10) -> tuple[str, str]:
        """Return the next event's type and data.

        Raises:
            EOFError: the stream has ended. TimeoutError: nothing came.
        """
        kind, data = "message", ""
        async with asyncio.timeout(seconds):
            while line := (await self.answer.content.readline()):
                text = line.decode().rstrip("\r\n")
                if text.startswith("event: "):
                    kind = text[7:]
                elif text.startswith("data: "):
                    data += text[6:]
                elif not text and data:
                    return kind, data
        raise EOFError

    async def message(self, seconds: float = 10) -> Message:
        return json.loads((await self.next(seconds))[1])

    async def until(self, wanted: Callable[[Message], bool], seconds: float = 10) -> Message:
        async with asyncio.timeout(seconds):
            while True:
                message = await self.message(seconds)
                if wanted(message):
                    return message

    async def end(self, seconds: float) -> None:
        """Read until the stream ends, however it does; fails if it does not within `seconds`."""
        async with asyncio.timeout(seconds):
            try:
                while await self.answer.content.readany():
                    pass
            except aiohttp.ClientError:
                return


class Handshake:
    """A session of the handshake era over Streamable HTTP."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str | None) -> None:
        self.http, self.url, self.key = http, url, key
        self.session: str | None = None
        self._ids = count(1)

    @property
    def headers(self) -> dict[str, str]:
        session = {} if self.session is None else {"Mcp-Session-Id": self.session}
        return {
            **bearer(self.key),
            **session,
            "Accept": BOTH,
            "Content-Type": "application/json",
            "MCP-Protocol-Version": HANDSHAKE,
        }

    async def open(self, capabilities: dict[str, Any] | None = None) -> Handshake:
        opened = await self.post(initialize(capabilities))
        assert opened.status == 200, opened
        self.session = opened.headers["mcp-session-id"]
        assert (await self.post(INITIALIZED)).status == 202
        return self

    async def post(self, message: Any) -> Reply:
        body = message if isinstance(message, str | bytes) else json.dumps(message)
        return await send(self.http, "POST", f"{self.url}/mcp", data=body, headers=self.headers)

    async def request(
        self, method: str, params: dict[str, Any] | None = None, message_id: Any = None
    ) -> Reply:
        return await self.post(
            request(method, params, next(self._ids) if message_id is None else message_id)
        )

    async def call(self, tool: str, arguments: dict[str, Any]) -> Reply:
        return await self.request("tools/call", {"name": tool, "arguments": arguments})

    @asynccontextmanager
    async def posting(self, message: Message) -> AsyncGenerator[EventStream]:
        """A request whose answer is read event by event."""
        async with self.http.post(f"{self.url}/mcp", json=message, headers=self.headers) as answer:
            assert answer.status == 200, await answer.text()
            yield EventStream(answer)

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[EventStream]:
        """The session's own stream: GET /mcp."""
        async with self.http.get(f"{self.url}/mcp", headers=self.headers) as answer:
            assert answer.status == 200, await answer.text()
            yield EventStream(answer)


class SseSession:
    """A connection of the older transport: answers come on GET /sse."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str | None) -> None:
        self.http, self.url, self.key = http, url, key
        self.stream: EventStream
        self.endpoint = ""
        self.others: asyncio.Queue[Message] = asyncio.Queue()
        self._waiting: dict[Any, asyncio.Future[Message]] = {}
        self._ids = count(1)

    async def post(self, message: Any, key: str | None = None) -> Reply:
        body = message if isinstance(message, str | bytes) else json.dumps(message)
        # On a connection of its own: an idle one may be closed by the server as we take it.
        headers = {
            **bearer(key or self.key),
            "Content-Type": "application/json",
            "Connection": "close",
        }
        return await send(
            self.http, "POST", f"{self.url}{self.endpoint}", data=body, headers=headers
        )

    async def request(
        self, method: str, params: dict[str, Any] | None = None, message_id: Any = None
    ) -> Message:
        name = next(self._ids) if message_id is None else message_id
        future = self._waiting[name] = asyncio.get_running_loop().create_future()
        posted = await self.post(request(method, params, name))
        assert posted.status == 202, posted
        async with asyncio.timeout(60):
            return await future

    async def call(self, tool: str, arguments: dict[str, Any]) -> Message:
        return await self.request("tools/call", {"name": tool, "arguments": arguments})

    async def read_forever(self) -> None:
        try:
            while True:
                message = await self.stream.message(3600)
                waiting = self._waiting.pop(message.get("id"), None)
                if waiting is None:
                    self.others.put_nowait(message)
                elif not waiting.done():
                    waiting.set_result(message)
        except (EOFError, aiohttp.ClientError) as error:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError(repr(error)))


@asynccontextmanager
async def open_sse(
    http: aiohttp.ClientSession, url: str, key: str | None, *, handshake: bool = True
) -> AsyncGenerator[SseSession]:
    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=None)
        answer = await stack.enter_async_context(
            http.get(f"{url}/sse", headers=bearer(key), timeout=timeout)
        )
        assert answer.status == 200, await answer.text()
        session = SseSession(http, url, key)
        session.stream = EventStream(answer)
        kind, session.endpoint = await session.stream.next()
        assert kind == "endpoint"
        reader = asyncio.create_task(session.read_forever())
        stack.callback(reader.cancel)
        if handshake:
            opened = await session.request("initialize", initialize()["params"])
            assert "result" in opened, opened
            assert (await session.post(INITIALIZED)).status == 202
        yield session
