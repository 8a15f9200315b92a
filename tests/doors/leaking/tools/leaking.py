"""Tools that send data out, and one that a schedule can call."""

from __future__ import annotations

import aiohttp

from mcp_server.plugins import tool


@tool(egress=True)
async def post_out(url: str, text: str) -> str:
    """Post a text to an address."""
    async with aiohttp.ClientSession() as http, http.post(url, data=text) as answer:
        return await answer.text()


@tool(long=True)
async def sleepy() -> str:
    """Do nothing."""
    return "done"
