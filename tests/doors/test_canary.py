"""Many clients at once whose requests have equal ids: each gets its own answers, at every door."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mcp import Client
from mcp.client.stdio import stdio_client
from mcp_types import TextContent

from mcp_server.auth.principal import OWNER_SCOPES, Principal
from tests.doors import raw
from tests.doors.fixtures import PLUGIN, make_key
from tests.doors.live import Live, open_live, stdio_parameters
from tests.e2e.processes import LONG

CLIENTS, CALLS = (50, 100) if LONG else (10, 20)
# Over stdio each client has a process of its own, and each process its own database connections.
PROCESSES = CLIENTS if LONG else 3
STARTING = 4


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "canary", plugins=(PLUGIN,)) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


@dataclass(frozen=True)
class Caller:
    """One client: a tenant of its own, except over stdio, where all are the local owner."""

    number: int
    live: Live
    http: aiohttp.ClientSession
    key: str
    tenant: str


@dataclass(frozen=True)
class Heard:
    """What came back for one call: its text, and the text of each progress report."""

    text: str
    progress: list[str] = field(default_factory=list)


# The number of a call is the id of its request and its progress token: the same for all clients.
Ask = Callable[[int, str, dict[str, Any]], Awaitable[Heard]]
Open = Callable[[Caller], AbstractAsyncContextManager[Ask]]


def params_of(number: int, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"name": tool, "arguments": arguments, "_meta": {"progressToken": number}}


def heard(number: int, messages: list[raw.Message]) -> Heard:
    """Check whose answer it is by its id, and keep what was said."""
    *reports, answer = messages
    assert answer["id"] == number, answer
    assert all(report["params"]["progressToken"] == number for report in reports), reports
    texts = [report["params"].get("message", "") for report in reports]
    return Heard(raw.text_of(answer["result"]), texts)


def messages_of(reply: raw.Reply) -> list[raw.Message]:
    assert reply.status == 200, reply
    streamed = reply.headers["content-type"].startswith("text/event-stream")
    return raw.events(reply.body) if streamed else [json.loads(reply.body)]


@asynccontextmanager
async def open_modern(caller: Caller) -> AsyncGenerator[Ask]:
    async def ask(number: int, tool: str, arguments: dict[str, Any]) -> Heard:
        params = params_of(number, tool, arguments)
        url, key = caller.live.url, caller.key
        reply = await raw.modern(caller.http, url, key, "tools/call", params, number)
        return heard(number, messages_of(reply))

    yield ask


@asynccontextmanager
async def open_handshake(caller: Caller) -> AsyncGenerator[Ask]:
    session = await raw.Handshake(caller.http, caller.live.url, caller.key).open()

    async def ask(number: int, tool: str, arguments: dict[str, Any]) -> Heard:
        reply = await session.request("tools/call", params_of(number, tool, arguments), number)
        return heard(number, messages_of(reply))

    yield ask


@asynccontextmanager
async def open_sse(caller: Caller) -> AsyncGenerator[Ask]:
    async with raw.open_sse(caller.http, caller.live.url, caller.key) as session:

        async def ask(number: int, tool: str, arguments: dict[str, Any]) -> Heard:
            answer = await session.request("tools/call", params_of(number, tool, arguments), number)
            # They came before the answer, on the same stream.
            reports = [session.others.get_nowait() for _ in range(session.others.qsize())]
            return heard(number, [*reports, answer])

        yield ask


@asynccontextmanager
async def open_bus(caller: Caller) -> AsyncGenerator[Ask]:
    principal = Principal(caller.tenant, "canary", OWNER_SCOPES)

    async def ask(number: int, tool: str, arguments: dict[str, Any]) -> Heard:
        reports: list[str] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            reports.append(message or "")

        bus = caller.live.runtime.bus
        result = await bus.call(principal, tool, arguments, progress=progress)
        return Heard(result.text, reports)

    yield ask


def open_chat(*, stream: bool) -> Open:
    """A chat reports no progress; the model's call has the id `call_1` for everybody."""

    @asynccontextmanager
    async def opened(caller: Caller) -> AsyncGenerator[Ask]:
        async def ask(number: int, tool: str, arguments: dict[str, Any]) -> Heard:
            wanted = json.dumps({"tool": tool, "arguments": arguments})
            body = {
                "model": "default",
                "messages": [{"role": "user", "content": wanted}],
                "tools": [{"type": "mcp", "server_label": "isthmus", "allowed_tools": [tool]}],
                "stream": stream,
            }
            url, headers = f"{caller.live.url}/v1/chat/completions", raw.bearer(caller.key)
            reply = await raw.send(caller.http, "POST", url, json=body, headers=headers)
            choices = [chunk["choices"] for chunk in messages_of(reply)]
            part = "delta" if stream else "message"
            texts = [item[part].get("content") or "" for (item,) in filter(None, choices)]
            return Heard("".join(texts), [arguments.get("text", "")] * arguments.get("times", 0))

        yield ask

    return opened


@asynccontextmanager
async def open_stdio(caller: Caller) -> AsyncGenerator[Ask]:
    parameters = stdio_parameters(caller.live)
    assert parameters.env is not None
    parameters.env["ISTHMUS_PLUGINS"] = str(PLUGIN)
    async with Client(stdio_client(parameters), mode="legacy") as client:

        async def ask(number: int, tool: str, arguments: dict[str, Any]) -> Heard:
            reports: list[str] = []

            async def hear(progress: float, total: float | None, message: str | None) -> None:
                reports.append(message or "")

            result = await client.call_tool(tool, arguments, progress_callback=hear)
            (content,) = result.content
            assert isinstance(content, TextContent)
            return Heard(content.text, reports)

        yield ask


OPENERS: dict[str, Open] = {
    "bus": open_bus,
    "modern": open_modern,
    "handshake": open_handshake,
    "sse": open_sse,
    "chat": open_chat(stream=False),
    "chat-stream": open_chat(stream=True),
}


async def wrong_answers(ask: Ask, canary: str, key: str) -> list[str]:
    """Make the calls of one client; every one must bring back what only this client said."""
    wrong: list[str] = []
    own = ""
    for number in range(1, CALLS + 1):
        match number % 3:
            case 1:
                own = f"{canary}-{number}"
                answer = await ask(number, "kv_set", {"key": key, "value": own})
                right = json.loads(answer.text)["value"] == own
            case 2:
                answer = await ask(number, "kv_get", {"key": key})
                right = json.loads(answer.text)["value"] == own
            case _:
                answer = await ask(number, "echo", {"text": f"{own}+", "times": 2})
                right = answer.text == f"{own}+" and answer.progress == [f"{own}+"] * 2
        if not right:
            wrong.append(f"call {number} of {canary}: {answer}")
    return wrong


async def check(
    open_door: Open, callers: list[Caller], key: Callable[[Caller], str]
) -> tuple[float, int]:
    """Let all clients begin together; return the seconds that the calls took, and their number."""
    begin = asyncio.Barrier(len(callers) + 1)
    starting = asyncio.Semaphore(STARTING)

    async def run(caller: Caller) -> list[str]:
        async with AsyncExitStack() as stack:
            async with starting:
                ask = await stack.enter_async_context(open_door(caller))
            await begin.wait()
            return await wrong_answers(ask, f"canary-{caller.number}", key(caller))

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(run(caller)) for caller in callers]
        await begin.wait()
        begun = time.monotonic()
    took = time.monotonic() - begun
    wrong = [line for task in running for line in task.result()]
    assert wrong == []
    return took, len(callers) * CALLS


async def make_callers(live: Live, http: aiohttp.ClientSession, count: int) -> list[Caller]:
    tenants = [f"canary-{number}" for number in range(count)]
    keys = [await make_key(live, tenant=tenant) for tenant in tenants]
    return [
        Caller(number, live, http, key["key"], tenant)
        for number, (tenant, key) in enumerate(zip(tenants, keys, strict=True))
    ]


def tell(capsys: pytest.CaptureFixture[str], door: str, took: float, calls: int) -> None:
    with capsys.disabled():
        print(f"\ncanary, {door}: {calls} calls, 0 wrong answers, {took:.1f} s")


@pytest.mark.parametrize("door", OPENERS)
async def test_each_client_gets_its_own_answers(
    live: Live, http: aiohttp.ClientSession, capsys: pytest.CaptureFixture[str], door: str
) -> None:
    """All tenants use the same key, so an answer of another would have the right form."""
    callers = await make_callers(live, http, CLIENTS)
    took, calls = await check(OPENERS[door], callers, lambda _: "canary")
    tell(capsys, door, took, calls)


@pytest.mark.timeout(600)  # to start fifty processes takes two cores more than a minute
async def test_each_process_over_stdio_gives_its_own_answers(
    live: Live, http: aiohttp.ClientSession, capsys: pytest.CaptureFixture[str]
) -> None:
    callers = await make_callers(live, http, PROCESSES)
    took, calls = await check(open_stdio, callers, lambda caller: f"own-{caller.number}")
    tell(capsys, f"stdio, {PROCESSES} processes", took, calls)
