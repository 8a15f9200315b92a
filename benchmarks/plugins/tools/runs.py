"""The long tools that the benchmark of runs starts: one does nothing, one tells text."""

from __future__ import annotations

import asyncio

from typing_extensions import TypedDict

from mcp_server.plugins import Call, tool


class Told(TypedDict):
    tokens: int


@tool(long=True, idempotent=True)
async def nothing() -> Told:
    """Return at once."""
    return Told(tokens=0)


@tool(long=True, idempotent=True)
async def talk(call: Call, tokens: int, per_second: float = 0) -> Told:
    """Tell so many tokens, at an even pace or as fast as it goes."""
    assert call.run is not None
    clock = asyncio.get_running_loop().time
    begun = clock()
    for number in range(tokens):
        call.run.emit({"type": "text", "text": f"{number:>6}, "})
        await asyncio.sleep(
            max(begun + (number + 1) / per_second - clock(), 0) if per_second else 0
        )
    return Told(tokens=tokens)
