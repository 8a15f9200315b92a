"""Schedule tools: agents and long tools that start by the clock."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from mcp_server.plugins import Call, tool
from mcp_server.services.schedules import Fire, ScheduleItem

TIMING = (
    '{"cron": "0 9 * * 1-5", "timezone": "Europe/Berlin"}, {"every_seconds": 900} or '
    '{"at": "2027-01-31T09:00:00+01:00"}; also jitter_seconds, overlap queue or skip'
)
WORK = (
    '{"agent": NAME, "input": text or chat messages} or {"tool": NAME, "arguments": {…}} of a long tool; '
    "also retries, timeout_seconds, priority"
)


class SchedulePage(TypedDict):
    items: list[ScheduleItem]


class ScheduleDeleted(TypedDict):
    deleted: bool


class Preview(TypedDict):
    items: list[Fire]


@tool(verb="write")
async def schedule_save(
    call: Call,
    name: str,
    timing: Annotated[dict[str, Any], Field(description=TIMING)],
    work: Annotated[dict[str, Any], Field(description=WORK)],
    missed: Annotated[
        Literal["skip", "once", "all"],
        Field(description="what becomes of ticks that nobody was there to fire"),
    ] = "once",
) -> ScheduleItem:
    """Start an agent or a long tool by the clock, with the rights that you have now; replaces one of this name."""
    return await call.services.schedules.save(
        call.principal, name, timing=timing, work=work, missed=missed, idempotency_key=call.key
    )


@tool(verb="read", read_only=True, destructive=False)
async def schedule_list(call: Call) -> SchedulePage:
    """List the schedules: when each fires next, and what became of the run that it started last."""
    return SchedulePage(items=await call.services.schedules.list(call.principal))


@tool(verb="read", read_only=True, destructive=False)
async def schedule_preview(
    call: Call,
    name: str,
    count: Annotated[int, Field(description="1 to 100")] = 5,
    timing: Annotated[
        dict[str, Any] | None, Field(description="instead of the schedule's own, to try it")
    ] = None,
) -> Preview:
    """Tell the next fires of a schedule, or those that it would have with another timing."""
    return Preview(
        items=await call.services.schedules.preview(call.principal, name, count, timing=timing)
    )


@tool(verb="write")
async def schedule_delete(call: Call, name: str) -> ScheduleDeleted:
    """Delete a schedule; runs that it started go on."""
    deleted = await call.services.schedules.delete(call.principal, name, idempotency_key=call.key)
    return ScheduleDeleted(deleted=deleted)


@tool(verb="write", destructive=False)
async def schedule_pause(call: Call, name: str) -> ScheduleItem:
    """Let a schedule rest; what falls into the pause is not made up for."""
    return await call.services.schedules.pause(call.principal, name, idempotency_key=call.key)


@tool(verb="write", destructive=False)
async def schedule_resume(call: Call, name: str) -> ScheduleItem:
    """Let a schedule that was paused or stopped go on from now, with the rights of whoever saved it."""
    return await call.services.schedules.resume(call.principal, name, idempotency_key=call.key)
