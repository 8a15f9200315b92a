"""Trigger tools: agents and long tools that start when something changes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from mcp_server.plugins import Call, tool
from mcp_server.services.triggers import TriggerItem

CONDITION = (
    '{"uri": "kv://default/jobs/*", "verbs": ["write"]}: one URI, or with * at the end a prefix; all verbs '
    "if none is named"
)
WORK = (
    '{"agent": NAME} or {"tool": NAME, "arguments": {…}, "changes_as": ARGUMENT} of a long tool; '
    "also retries, timeout_seconds, priority"
)


class TriggerPage(TypedDict):
    items: list[TriggerItem]


class TriggerDeleted(TypedDict):
    deleted: bool


@tool(verb="write")
async def trigger_save(
    call: Call,
    name: str,
    condition: Annotated[dict[str, Any], Field(description=CONDITION)],
    work: Annotated[dict[str, Any], Field(description=WORK)],
    debounce_seconds: Annotated[
        float, Field(description="fire when nothing more has changed for so long")
    ] = 0,
) -> TriggerItem:
    """Start an agent or a long tool whenever something changes, with the rights that you have now; replaces one of this name."""
    return await call.services.triggers.save(
        call.principal,
        name,
        condition=condition,
        work=work,
        debounce_seconds=debounce_seconds,
        idempotency_key=call.key,
    )


@tool(verb="read", read_only=True, destructive=False)
async def trigger_list(call: Call) -> TriggerPage:
    """List the triggers: what each has gathered, and what became of the run that it started last."""
    return TriggerPage(items=await call.services.triggers.list(call.principal))


@tool(verb="write")
async def trigger_delete(call: Call, name: str) -> TriggerDeleted:
    """Delete a trigger; runs that it started go on."""
    deleted = await call.services.triggers.delete(call.principal, name, idempotency_key=call.key)
    return TriggerDeleted(deleted=deleted)


@tool(verb="write", destructive=False)
async def trigger_pause(call: Call, name: str) -> TriggerItem:
    """Let a trigger rest; what changes meanwhile does not fire it later."""
    return await call.services.triggers.pause(call.principal, name, idempotency_key=call.key)


@tool(verb="write", destructive=False)
async def trigger_resume(call: Call, name: str) -> TriggerItem:
    """Let a trigger that was paused or stopped see what changes from now on."""
    return await call.services.triggers.resume(call.principal, name, idempotency_key=call.key)
