"""Long tools that hardly do anything: one takes two milliseconds, the other asks at once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from typing_extensions import TypedDict

from mcp_server.plugins import Call, tool


class Done(TypedDict):
    number: int
    pid: int


@tool(long=True, idempotent=True)
async def short(number: int, log: str) -> Done:
    """Note in the file `log` that it was called, and return."""
    with Path(log).open("a", encoding="utf-8") as file:  # noqa: ASYNC230  it takes microseconds
        file.write(f"{number}\n")
    await asyncio.sleep(0.002)
    return Done(number=number, pid=os.getpid())


@tool(long=True)
async def asking(call: Call, number: int) -> Done:
    """Ask for a number and add it."""
    answer = await call.ask("What is to be added?", {"type": "integer"})
    return Done(number=number + answer, pid=os.getpid())
