"""Tools that behave as no tool should, or slowly, or tell what goes on around them."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from mcp.server.mcpserver import Context
from mcp_types import CreateMessageResult, SamplingMessage, TextContent
from pydantic import BaseModel
from typing_extensions import TypedDict

from mcp_server.errors import Conflict
from mcp_server.plugins import Call, tool

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


class Item(TypedDict):
    value: Any


class Answer(BaseModel):
    name: str


def _note(record: str, word: str) -> None:
    with Path(record).open("a", encoding="utf-8") as file:
        file.write(word + "\n")


@tool(read_only=True)
async def wait(call: Call, record: str, seconds: float = 60, progress: bool = False) -> str:
    """Wait, and note in the file `record` when it started and how it ended."""
    _note(record, "started")
    try:
        if progress:
            await call.progress(0, 1)
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        _note(record, "cancelled")
        raise
    _note(record, "done")
    return "done"


@tool()
async def fail(how: Literal["raise", "refuse", "exit", "interrupt", "cancel", "group"]) -> str:
    """Fail in one of many ways."""
    match how:
        case "raise":
            raise RuntimeError("the inside of the server")
        case "refuse":
            raise Conflict("as announced")
        case "exit":
            sys.exit("the inside of the server")
        case "interrupt":
            raise KeyboardInterrupt
        case "cancel":
            raise asyncio.CancelledError
        case "group":
            raise BaseExceptionGroup("the inside of the server", [SystemExit(3), ValueError()])


GARBAGE: dict[str, Any] = {
    "nothing": None,
    "object": object(),
    "object inside": {"value": object()},
    "bytes": {"value": b"\xff"},
    "surrogate": {"value": "\ud800"},
    "surrogate key": {"value": {"\udfff": 1}},
    "deep": {"value": reduce(lambda inner, _: [inner], range(2000), [])},
    "list": [1, 2],
}


@tool()
async def give(what: str) -> Item:
    """Return what no tool should return."""
    return GARBAGE[what]


@tool()
async def say(what: Literal["surrogate", "nothing", "nul", "long"]) -> str:
    """Return a text that no tool should return."""
    texts: dict[str, Any] = {
        "surrogate": "\ud800",
        "nothing": None,
        "nul": "a\0b",
        "long": "x" * 400_000,
    }
    return texts[what]


@tool()
async def flood(call: Call, count: int) -> str:
    """Report progress as fast as it goes."""
    for number in range(count):
        await call.progress(number, count)
    return "flooded"


@tool(read_only=True)
async def modules() -> list[str]:
    """Tell which modules this process has loaded, and its pid."""
    return [str(os.getpid()), *sorted(sys.modules)]


@tool()
async def log_at_every_level(context: Context) -> str:
    """Log one message at each level, from the least to the most severe."""
    for level in LEVELS:
        await context.log(level, f"at {level}")  # pyright: ignore[reportArgumentType, reportDeprecated]
    return "logged"


@tool()
async def ask_user(context: Context) -> str:
    """Ask the client's user for a name, on the stream of this call."""
    answer = await context.elicit("What is your name?", Answer)
    return f"{answer.action}: {answer.data.name if answer.action == 'accept' else None}"


@tool()
async def ask_model(context: Context, question: str, related: bool = True) -> str:
    """Ask the client's model, on the stream of this call or on the session's own."""
    answer = await context.session.create_message(  # pyright: ignore[reportDeprecated]
        [SamplingMessage(role="user", content=TextContent(type="text", text=question))],
        max_tokens=50,
        related_request_id=context.request_id if related else None,
    )
    assert isinstance(answer, CreateMessageResult)
    return answer.content.text if isinstance(answer.content, TextContent) else "no text"
