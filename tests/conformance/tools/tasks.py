"""Tools that clients of the Tasks extension are answered with a task for (SEP-2663)."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server.mcpserver import Context, require_client_extension
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)

from mcp_server.errors import Conflict
from mcp_server.plugins import Call, tool

EXTENSION = "io.modelcontextprotocol/tasks"
CONFIRM = {
    "type": "object",
    "properties": {"confirm": {"type": "boolean"}},
    "required": ["confirm"],
}
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


async def _start(context: Context, long_tool: str, **arguments: Any) -> CallToolResult:
    """Go on as a run of a long tool, which only a client that takes tasks may start so."""
    require_client_extension(context.request_context, EXTENSION)
    result = await context.mcp_server.call_tool(long_tool, arguments, context)
    assert isinstance(result, CallToolResult)
    return result


@tool()
async def greet(name: str) -> str:
    """Greet at once."""
    return f"Hello, {name}!"


@tool(long=True)
async def slow_compute(call: Call, seconds: float, label: str = "") -> str:
    """Compute for some seconds."""
    await call.progress(0, seconds, label)
    await asyncio.sleep(seconds)
    return f"Computed {label} for {seconds:g} s"


@tool(long=True)
async def brief_reports(call: Call) -> str:
    """Ask whether to begin, tell quickly how far it is, and nothing more for long."""
    await call.ask("Begin?", CONFIRM)
    for done in range(3):
        await call.progress(done, 2)
        await asyncio.sleep(0.15)
    await asyncio.sleep(60)
    return "done"


@tool(starts_run=True)
async def failing_job(context: Context) -> CallToolResult:
    """Start a job that fails, as a task only."""
    return await _start(context, "failing_work")


@tool(long=True)
async def failing_work() -> str:
    """Fail as a tool fails."""
    await asyncio.sleep(1)
    raise Conflict("this job fails on purpose")


@tool(long=True)
async def protocol_error_job() -> str:
    """Fail as a request fails."""
    raise MCPError(INTERNAL_ERROR, "this job panics on purpose")


@tool(long=True)
async def confirm_delete(call: Call, filename: str) -> str:
    """Ask before something is done."""
    answer = await call.ask(f"Delete {filename}?", CONFIRM)
    return f"{filename} is {'deleted' if answer['confirm'] else 'kept'}"


@tool(long=True)
async def multi_input(call: Call) -> str:
    """Ask two things at once."""
    answers = await call.ask_each(
        {"name": ("What is your name?", NAME), "confirm": ("Sure?", CONFIRM)}
    )
    return f"{answers['name']['name']}: {answers['confirm']['confirm']}"


@tool(starts_run=True)
async def test_tool_with_task(context: Context) -> CallToolResult | InputRequiredResult:
    """Ask in the call itself, then go on as a task."""
    answer = (context.input_responses or {}).get("user_name")
    if not isinstance(answer, ElicitResult) or not answer.content:
        ask = ElicitRequestFormParams(message="What is your name?", requested_schema=NAME)
        return InputRequiredResult(input_requests={"user_name": ElicitRequest(params=ask)})
    return await _start(context, "slow_greeting", name=str(answer.content["name"]))


@tool(long=True)
async def slow_greeting(name: str) -> str:
    """Greet after a while."""
    await asyncio.sleep(0.2)
    return f"Hello, {name}!"
