"""Tools that notify the client while they run."""

from __future__ import annotations

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts import Prompt

from mcp_server.plugins import tool

_PAUSE_SECONDS = 0.05  # the suite asks for it, so that the notifications arrive one by one


async def _log(context: Context, text: str) -> None:
    # Deprecated in the protocol and in the SDK, but still served to handshake-era clients.
    await context.log("info", text)  # pyright: ignore[reportDeprecated]


@tool()
async def test_tool_with_logging(context: Context) -> str:
    """Log three messages at level info."""
    await _log(context, "Tool execution started")
    await anyio.sleep(_PAUSE_SECONDS)
    await _log(context, "Tool processing data")
    await anyio.sleep(_PAUSE_SECONDS)
    await _log(context, "Tool execution completed")
    return "Three messages were logged."


@tool()
async def test_logging_tool(context: Context) -> str:
    """Log one message, which a 2026-07-28 client only gets when it asked for a log level."""
    await _log(context, "Only for clients that asked")
    return "One message was logged."


@tool()
async def test_tool_with_progress(context: Context) -> str:
    """Report progress three times."""
    for done in (0, 50):
        await context.report_progress(done, 100, f"Completed step {done} of 100")
        await anyio.sleep(_PAUSE_SECONDS)
    await context.report_progress(100, 100, "Completed step 100 of 100")
    return "Progress was reported."


@tool()
async def test_trigger_tool_change(context: Context) -> str:
    """Change the list of tools and tell the streams of `subscriptions/listen`."""
    server = context.mcp_server
    server.add_tool(_passing, name="test_passing_tool", description="Gone at once.")
    server.remove_tool("test_passing_tool")
    await context.notify_tools_changed()
    return "The list of tools changed."


@tool()
async def test_trigger_prompt_change(context: Context) -> str:
    """Change the list of prompts and tell the streams of `subscriptions/listen`."""
    server = context.mcp_server
    server.add_prompt(Prompt.from_function(_passing, name="test_passing_prompt"))
    server.remove_prompt("test_passing_prompt")
    await context.notify_prompts_changed()
    return "The list of prompts changed."


async def _passing() -> str:
    return "passing"
