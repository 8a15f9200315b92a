"""Undo as a tool."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mcp_server.plugins import Call, tool
from mcp_server.services.undo import Undone


@tool(verb="write")
async def undo(
    call: Call,
    change: Annotated[str, Field(description="field change of an item of changes")],
) -> Undone:
    """Undo one change of a key, an object or a document."""
    return await call.services.undo.undo(call.principal, change, idempotency_key=call.key)
