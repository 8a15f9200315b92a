"""Run tools: what became of a run, its events, its questions, its end."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import Field

from mcp_server.plugins import Call, tool
from mcp_server.services.runs import RunEvents, RunItem, RunPage
from mcp_server.services.trace_results import RunTrace

MARGIN_SECONDS = 0.5


@tool(verb="read", read_only=True, destructive=False)
async def run_get(call: Call, run: str) -> RunItem:
    """Get a run: its status, output, usage, progress, and what it asks."""
    return await call.services.runs.get(call.principal, run)


@tool(verb="read", read_only=True, destructive=False)
async def run_list(
    call: Call,
    status: Annotated[
        str | None, Field(description="queued, running, input_required, completed, failed, …")
    ] = None,
    agent: str | None = None,
    parent: Annotated[str | None, Field(description="only what this run began")] = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> RunPage:
    """List runs, newest first, without their outputs."""
    return await call.services.runs.list(
        call.principal, status=status, agent=agent, parent=parent, limit=limit, cursor=cursor
    )


@tool(verb="read", read_only=True, destructive=False)
async def run_events(
    call: Call,
    run: str,
    after: Annotated[int, Field(description="the number of the last event that is known")] = 0,
    limit: int | None = None,
    wait_seconds: Annotated[
        float, Field(description="wait so long for the next event if there is none, 60 at most")
    ] = 0,
) -> RunEvents:
    """Get a run's events after a number, oldest first; ask again with after = next_after."""
    if call.deadline is not None:  # to answer with what there is, not with a timeout
        left = call.deadline - asyncio.get_running_loop().time() - MARGIN_SECONDS
        wait_seconds = min(wait_seconds, max(left, 0))
    return await call.services.runs.events(call.principal, run, after, limit, wait_seconds)


@tool(verb="read", read_only=True, destructive=False)
async def run_trace(
    call: Call, run: str, limit: int | None = None, cursor: str | None = None
) -> RunTrace:
    """Get what a run was asked and did, step by step: attempts, turns, tool calls, approvals, with times."""
    return await call.services.traces.trace(call.principal, run, limit, cursor)


@tool(verb="run")
async def run_input(
    call: Call,
    run: str,
    answer: Annotated[
        Any,
        Field(
            description="what the request's schema asks for; "
            'of an approval {"approved": true or false, "reason": "…"}'
        ),
    ],
    request: Annotated[
        str | None, Field(description="the id of the request, to answer no other one")
    ] = None,
) -> RunItem:
    """Answer what a run asks, and let it go on; the first answer counts."""
    return await call.services.runs.input(
        call.principal, run, answer, request, by_model=call.by_model
    )


@tool(verb="run")
async def run_cancel(call: Call, run: str) -> RunItem:
    """Cancel a run; what its tools have done stays done."""
    return await call.services.runs.cancel(call.principal, run)
