"""A client of the Tasks extension, over Streamable HTTP and over a stdio process: raw JSON-RPC."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from mcp.shared.inbound import encode_header_value

from tests.doors import raw
from tests.doors.live import Live

EXTENSION = "io.modelcontextprotocol/tasks"
DECLARED: dict[str, Any] = {"elicitation": {}, "extensions": {EXTENSION: {}}}
FIXTURES = Path(__file__).parents[1] / "conformance"
ENDED = {"completed", "failed", "cancelled"}

Message = dict[str, Any]
Send = Callable[[str, Message], Awaitable[Message]]


class TaskClient:
    """Sends requests and returns whole JSON-RPC answers; `capabilities` are declared with each."""

    def __init__(self, send: Send, capabilities: Message = DECLARED) -> None:
        self._send = send
        self._capabilities = capabilities

    def without(self) -> TaskClient:
        """Return a client that does not declare the extension."""
        return TaskClient(self._send, {})

    async def request(self, method: str, **params: Any) -> Message:
        declared = {"io.modelcontextprotocol/clientCapabilities": self._capabilities}
        return await self._send(method, params | {"_meta": declared})

    async def result(self, method: str, **params: Any) -> Message:
        answer = await self.request(method, **params)
        assert "result" in answer, answer
        return answer["result"]

    async def error(self, method: str, **params: Any) -> Message:
        answer = await self.request(method, **params)
        assert "error" in answer, answer
        return answer["error"]

    async def call(self, tool: str, **arguments: Any) -> Message:
        return await self.result("tools/call", name=tool, arguments=arguments)

    async def start(self, tool: str, **arguments: Any) -> str:
        """Call a tool that becomes a task, and return the task's id."""
        created = await self.call(tool, **arguments)
        assert created["resultType"] == "task", created
        return created["taskId"]

    async def get(self, task: str) -> Message:
        return await self.result("tasks/get", taskId=task)

    async def until(self, task: str, *statuses: str, seconds: float = 15) -> Message:
        """Poll until the task has one of the statuses, or has ended."""
        deadline = time.monotonic() + seconds
        while True:
            shown = await self.get(task)
            if shown["status"] in (ENDED | set(statuses)):
                return shown
            assert time.monotonic() < deadline, shown
            await asyncio.sleep(0.02)

    async def answer(self, task: str, **answers: Any) -> Message:
        return await self.result("tasks/update", taskId=task, inputResponses=answers)


def over_http(http: aiohttp.ClientSession, url: str, key: str | None) -> TaskClient:
    async def send(method: str, params: Message) -> Message:
        reply = await raw.send(
            http,
            "POST",
            f"{url}/mcp",
            data=json.dumps(raw.modern_request(method, params)),
            headers=headers(key, method, params),
        )
        return reply.message

    return TaskClient(send)


def over_sse(session: raw.SseSession) -> TaskClient:
    """A client of the 2026-07-28 era on the older transport, which has no routing headers."""

    async def send(method: str, params: Message) -> Message:
        return await session.request(method, raw.modern_request(method, params)["params"])

    return TaskClient(send)


def headers(key: str | None, method: str, params: Message) -> dict[str, str]:
    """The headers of a request, with the task that it routes by."""
    task = params.get("taskId")
    named = {"Mcp-Name": encode_header_value(task)} if isinstance(task, str) else {}
    return raw.modern_headers(key, method, params) | named


class StdioProcess:
    """`isthmus stdio` on the data directory of a live server."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = count(1)
        self.last = 0
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self.notifications: asyncio.Queue[Message] = asyncio.Queue()

    async def send(self, method: str, params: Message) -> Message:
        async with asyncio.timeout(60):
            return await self.begin(method, params)

    def begin(self, method: str, params: Message) -> asyncio.Future[Message]:
        """Send a request whose answer comes later."""
        name = self.last = next(self._ids)
        future = self._waiting[name] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        line = json.dumps(raw.modern_request(method, params, name))
        self._process.stdin.write(line.encode() + b"\n")
        return future

    def notify(self, method: str, params: Message) -> None:
        assert self._process.stdin is not None
        line = json.dumps({"jsonrpc": "2.0", "method": method, "params": params})
        self._process.stdin.write(line.encode() + b"\n")

    async def read_forever(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if "id" in message:
                waiting = self._waiting.pop(message["id"])
                if not waiting.done():  # nobody waits for it any more
                    waiting.set_result(message)
            else:
                self.notifications.put_nowait(message)


@asynccontextmanager
async def open_stdio(live: Live) -> AsyncGenerator[StdioProcess]:
    settings = live.runtime.settings
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ISTHMUS_")
    }
    environment |= {
        "ISTHMUS_DATA_DIR": str(settings.data_dir),
        "ISTHMUS_LLM_URL": ",".join(settings.llm_url),
        "ISTHMUS_PLUGINS": str(FIXTURES),
    }
    async with start_stdio(environment) as stdio:
        yield stdio


@asynccontextmanager
async def start_stdio(environment: dict[str, str]) -> AsyncGenerator[StdioProcess]:
    """`isthmus stdio` with the given environment; it ends with its client."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mcp_server", "stdio"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
        limit=2**24,
    )
    stdio = StdioProcess(process)
    reading = asyncio.create_task(stdio.read_forever())
    try:
        yield stdio
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
