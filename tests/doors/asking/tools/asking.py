"""A tool that asks what it is told to."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

from mcp_server.plugins import Call, tool


@tool(long=True)
async def ask_for(
    call: Call, schema: dict[str, Any], kind: Literal["approval", "question"] = "question"
) -> str:
    """Ask for something of a schema, and return it as JSON."""
    return json.dumps(await call.ask("What?", schema, kind))


@tool(long=True)
async def sleep_soundly() -> str:
    """Sleep for a minute, and take two seconds to wake up."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(2)
        raise
    return "awake"
