"""Responses with a server elsewhere that does not mean well: what it lists and answers stays its own trouble."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_server.services import outside_tools
from tests.doors.live import open_live, serving


@dataclass
class Elsewhere:
    """An MCP server (2025-06-18) whose lists and answers are what a test says."""

    pages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    answer: dict[str, Any] = field(default_factory=dict[str, Any])
    listed: int = 0
    silent: bool = False

    async def serve(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(status_code=405)
        message = await request.json()
        if "id" not in message:
            return Response(status_code=202)
        match message["method"]:
            case "initialize":
                result: dict[str, Any] = {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "elsewhere", "version": "1"},
                }
            case "tools/list":
                if self.silent:
                    await asyncio.sleep(60)
                result = self.pages[min(self.listed, len(self.pages) - 1)]
                self.listed += 1
            case "tools/call":
                result = self.answer
            case _:
                error = {"code": -32601, "message": "Method not found"}
                return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": error})
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result})


@dataclass
class World:
    elsewhere: Elsewhere
    tool: dict[str, Any]
    client: AsyncOpenAI

    async def ask(self, name: str, **arguments: Any) -> Any:
        wanted = json.dumps({"tool": name, "arguments": arguments})
        tools: Any = [self.tool]
        return await self.client.responses.create(model="default", input=wanted, tools=tools)


@pytest.fixture(scope="module")
async def opened(anyio_backend: object, scratch: Path) -> AsyncIterator[World]:
    elsewhere = Elsewhere()
    app = Starlette(routes=[Route("/mcp", elsewhere.serve, methods=["GET", "POST", "DELETE"])])
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(app))
        there = url.removeprefix("http://")
        live = await stack.enter_async_context(open_live(scratch / "outside", fetch_allow=(there,)))
        client = await stack.enter_async_context(
            AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0)
        )
        tool = {"type": "mcp", "server_label": "far", "server_url": f"{url}/mcp"}
        yield World(elsewhere, tool | {"require_approval": "never"}, client)


@pytest.fixture
def world(opened: World) -> World:
    opened.elsewhere.__init__()
    return opened


def listing(*names: str, **more: Any) -> dict[str, Any]:
    return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]} | more


async def test_a_list_without_an_end_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside_tools, "LIST_SECONDS", 1.0)
    world.elsewhere.pages = [listing(nextCursor="more")]
    async with asyncio.timeout(20):
        answer = await world.ask("far__x")
    assert "far" in answer.output[0].server_label
    assert answer.output[0].error
    assert answer.status == "completed"


async def test_a_server_that_is_silent_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside_tools, "LIST_SECONDS", 1.0)
    world.elsewhere.silent = True
    async with asyncio.timeout(20):
        answer = await world.ask("far__x")
    assert answer.output[0].error
    assert answer.status == "completed"


async def test_names_are_the_servers_business_and_hide_nothing(world: World) -> None:
    names = ["x" * 5000, "a b\0c", "\u202egnp", "kv_set", "kv_set", ""]
    world.elsewhere.pages = [listing(*names)]
    world.elsewhere.answer = {"content": [{"type": "text", "text": "from far"}]}
    answer = await world.ask("far__kv_set", key="k", value=1)
    calls = [item for item in answer.output if item.type == "mcp_call"]
    assert [(call.server_label, call.name, call.output) for call in calls] == [
        ("far", "kv_set", "from far")
    ]


@pytest.mark.parametrize(
    "answered",
    [
        {"content": "no parts"},
        {"content": [{"type": "text", "text": 5}]},
        {"content": [{"type": "surprise"}]},
        {},
        {"content": [{"type": "text", "text": "a\0b"}], "isError": True},
    ],
)
async def test_what_is_no_answer_is_a_failed_call(world: World, answered: dict[str, Any]) -> None:
    world.elsewhere.pages = [listing("x")]
    world.elsewhere.answer = answered
    answer = await world.ask("far__x")
    assert answer.status == "completed", answer.error
    (call,) = [item for item in answer.output if item.type == "mcp_call"]
    assert call.status == "failed"


@pytest.mark.parametrize(
    "page",
    [
        {"tools": "none"},
        {"tools": [{"name": 5}]},
        {"tools": [{"name": "x", "inputSchema": "text"}]},
        {},
    ],
)
async def test_what_is_no_list_is_told_as_such(world: World, page: dict[str, Any]) -> None:
    world.elsewhere.pages = [page]
    answer = await world.ask("far__x")
    assert answer.output[0].error
    assert answer.status == "completed"
