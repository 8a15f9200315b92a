"""A tool that says what it was told, on every way it has."""

from __future__ import annotations

from mcp_server.plugins import Call, tool


@tool(read_only=True)
async def echo(call: Call, text: str, times: int = 2) -> str:
    """Report the text as progress so many times, then return it."""
    for number in range(times):
        await call.progress(number, times, text)
    return text
