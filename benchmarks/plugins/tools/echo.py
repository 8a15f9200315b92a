"""The tool that every benchmark calls: it does nothing, so that what is measured is the way to it."""

from __future__ import annotations

from typing_extensions import TypedDict

from mcp_server.plugins import tool


class Echo(TypedDict):
    text: str
    number: int


@tool(verb="read", read_only=True)
async def echo(text: str, number: int = 0) -> Echo:
    """Return the arguments."""
    return Echo(text=text, number=number)
