"""A whole server in this process, an obedient model beside it, and one client for each door."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx2
import uvicorn
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import BlobResourceContents, TextContent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from mcp_server.app import HttpApp, open_http
from mcp_server.auth.passes import Passes
from mcp_server.auth.principal import OWNER
from mcp_server.bus import Bus
from mcp_server.bus_over_http import open_link
from mcp_server.errors import AppError
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.secret import server_secret
from mcp_server.settings import Settings
from mcp_server.sockets import socket_options
from mcp_server.transports.bounded_head import BoundedHeadProtocol

MOST_MESSAGE_BYTES = 1_000_000
DOORS = ("bus", "bus-http", "stdio", "http", "http-legacy", "sse", "sse-modern", "chat")


@dataclass(frozen=True)
class Answer:
    """What a tool or a resource answered, the same for every door."""

    text: str
    structured: Any = None
    is_error: bool = False


class Door(Protocol):
    async def call(self, tool: str, arguments: dict[str, Any]) -> Answer: ...

    async def read(self, uri: str) -> Answer: ...


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncGenerator[str]:
    """Serve an application on a free port and yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=BoundedHeadProtocol,
            lifespan="off",
            log_config=None,
            **socket_options(MOST_MESSAGE_BYTES),
            reset_contextvars=True,
            timeout_graceful_shutdown=2,
        )
    )
    server.install_signal_handlers = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    task = asyncio.create_task(server._serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


def obedient_model() -> Starlette:
    """An OpenAI-compatible upstream that calls the tool the user's message names, then repeats its result.

    The message is JSON: `{"tool": NAME, "arguments": {...}}`.
    """

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "obedient", "object": "model"}]})

    async def chat(request: Request) -> Response:
        body = await request.json()
        last = body["messages"][-1]
        if last["role"] == "tool":
            delta: dict[str, Any] = {"role": "assistant", "content": last["content"]}
            reason = "stop"
        else:
            wanted = json.loads(last["content"])
            function = {"name": wanted["tool"], "arguments": json.dumps(wanted["arguments"])}
            call = {"index": 0, "id": "call_1", "type": "function", "function": function}
            delta, reason = (
                {"role": "assistant", "content": None, "tool_calls": [call]},
                "tool_calls",
            )
        head = {"id": "chatcmpl-1", "created": 1, "model": "obedient"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if not body.get("stream"):
            choice = {"index": 0, "message": delta, "finish_reason": reason}
            return JSONResponse(
                {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            )

        async def events() -> AsyncGenerator[str]:
            for part, end in ((delta, None), ({}, reason)):
                choice = {"index": 0, "delta": part, "finish_reason": end}
                chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
                yield f"data: {json.dumps(chunk)}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
    )


@dataclass(frozen=True)
class Live:
    """A running server: its address, its key and what is open inside."""

    url: str
    key: str
    runtime: Runtime
    http: HttpApp

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


KEY = "sk-live-owner-of-the-default-tenant"


@asynccontextmanager
async def open_live(data_dir: Path, **settings: Any) -> AsyncGenerator[Live]:
    """Serve everything from a data directory, with the obedient model unless another is given."""
    async with AsyncExitStack() as stack:
        if "llm_url" not in settings:
            upstream = await stack.enter_async_context(serving(obedient_model()))
            settings["llm_url"] = (f"{upstream}/v1",)
        values: dict[str, Any] = {"data_dir": data_dir, "api_key": KEY, "port": 0, **settings}
        runtime = await stack.enter_async_context(open_runtime(Settings(**values)))
        http = await stack.enter_async_context(open_http(runtime))
        url = await stack.enter_async_context(serving(http.app))
        yield Live(url, KEY, runtime, http)


class BusDoor:
    """The way agents and the facade call: inside the process, or from one without data of its own."""

    def __init__(self, live: Live, bus: Bus | None = None) -> None:
        self._bus = bus or live.runtime.bus

    async def call(self, tool: str, arguments: dict[str, Any]) -> Answer:
        try:
            result = await self._bus.call(OWNER, tool, arguments)
        except AppError as error:
            return Answer(str(error), is_error=True)
        return Answer(result.text, result.structured, result.is_error)

    async def read(self, uri: str) -> Answer:
        try:
            (content,) = await self._bus.read(OWNER, uri)
        except AppError as error:
            return Answer(str(error), is_error=True)
        return Answer(
            content.text if content.text is not None else content.blob or "", content.mime_type
        )


class ClientDoor:
    """The SDK's client over some transport."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, arguments: dict[str, Any]) -> Answer:
        result = await self.client.call_tool(tool, arguments)
        text = "\n".join(item.text for item in result.content if isinstance(item, TextContent))
        return Answer(text, result.structured_content, bool(result.is_error))

    async def read(self, uri: str) -> Answer:
        try:
            (content,) = (await self.client.read_resource(uri)).contents
        except MCPError as error:
            assert error.error.data == {"uri": uri}
            return Answer(error.error.message, is_error=True)
        body = content.blob if isinstance(content, BlobResourceContents) else content.text
        return Answer(body, content.mime_type)


class ChatDoor:
    """A chat whose model calls the one tool that it is told to, and repeats what came back."""

    def __init__(self, live: Live, http: httpx2.AsyncClient) -> None:
        self._live = live
        self._http = http

    async def call(self, tool: str, arguments: dict[str, Any]) -> Answer:
        body = {
            "model": "default",
            "messages": [
                {"role": "user", "content": json.dumps({"tool": tool, "arguments": arguments})}
            ],
            "tools": [{"type": "mcp", "server_label": "isthmus", "allowed_tools": [tool]}],
        }
        answer = await self._http.post(
            f"{self._live.url}/v1/chat/completions", json=body, headers=self._live.headers
        )
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        text = choice["message"]["content"]
        (call,) = answer.json()["isthmus"]["tool_calls"]
        if call["is_error"]:  # below it, the model reads whether to try again
            return Answer(text.rpartition("\n")[0], None, is_error=True)
        return Answer(text, json.loads(text), is_error=False)

    async def read(self, uri: str) -> Answer:
        raise NotImplementedError(f"a chat reads no resources: {uri}")


@asynccontextmanager
async def open_door(live: Live, name: str) -> AsyncGenerator[Door]:
    """Yield a client of one door, as the owner of the default tenant."""
    async with AsyncExitStack() as stack:
        match name:
            case "bus":
                yield BusDoor(live)
            case "bus-http":
                yield BusDoor(live, await stack.enter_async_context(open_remote_bus(live)))
            case "chat":
                yield ChatDoor(live, await stack.enter_async_context(http_client()))
            case "stdio":
                target = stdio_client(stdio_parameters(live))
                yield ClientDoor(await stack.enter_async_context(Client(target)))
            case "sse" | "sse-modern":
                target = sse_client(f"{live.url}/sse", headers=live.headers)
                mode: dict[str, Any] = {"mode": "legacy"} if name == "sse" else {}
                yield ClientDoor(await stack.enter_async_context(Client(target, **mode)))
            case _:
                http = await stack.enter_async_context(http_client(live.headers))
                target = streamable_http_client(f"{live.url}/mcp", http_client=http)
                mode: dict[str, Any] = {"mode": "legacy"} if name == "http-legacy" else {}
                yield ClientDoor(await stack.enter_async_context(Client(target, **mode)))


@asynccontextmanager
async def open_remote_bus(live: Live) -> AsyncGenerator[Bus]:
    """Yield a bus as a process of role openai has it: it knows the server's address and secret."""
    passes = Passes(server_secret(live.runtime.settings))
    async with open_link(f"{live.url}/mcp", passes) as link:
        yield Bus(link)


@asynccontextmanager
async def http_client(headers: dict[str, str] | None = None) -> AsyncGenerator[httpx2.AsyncClient]:
    # The SDK's default client builds a TLS context for plain HTTP too: 40 ms each time.
    async with httpx2.AsyncClient(headers=headers, timeout=60, verify=False) as client:
        yield client


def stdio_parameters(live: Live) -> StdioServerParameters:
    settings = live.runtime.settings
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ISTHMUS_")
    }
    environment |= {
        "ISTHMUS_DATA_DIR": str(settings.data_dir),
        "ISTHMUS_LLM_URL": ",".join(settings.llm_url),
    }
    return StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_server", "stdio"], env=environment
    )
