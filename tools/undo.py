"""Undo as a tool."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mcp_server.plugins import Call, Preview, tool
from mcp_server.services.run_undo import RunUndone
from mcp_server.services.undo import Undone


@tool(verb="write")
async def undo(
    call: Call,
    change: Annotated[str, Field(description="field change of an item of changes")],
) -> Undone:
    """Undo one change of a key, an object or a document."""
    return await call.services.undo.undo(call.principal, change, idempotency_key=call.key)


@tool(verb="write", preview=Preview(given={"preview": True}))
async def run_undo(
    call: Call,
    run: str,
    preview: Annotated[bool, Field(description="tell what it would do, and do nothing")] = False,
) -> RunUndone:
    """Undo what a run, and the runs that it began, changed of keys, objects and documents."""
    return await call.services.run_undo.undo(
        call.principal, run, preview=preview, idempotency_key=call.key, deadline=call.deadline
    )
