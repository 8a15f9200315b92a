"""Traces: what a run was asked, what it did and when, and what came of it, read from what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, cast

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.operation import Operations
from mcp_server.runs.places import place_of
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.record import Run
from mcp_server.runs.redaction import Redaction
from mcp_server.runs.timed_events import timed_events
from mcp_server.services import names
from mcp_server.services.run_access import RunAccess, visible
from mcp_server.services.run_results import run_item
from mcp_server.services.trace_results import (
    RunTrace,
    TraceChild,
    TraceMessage,
    TracePrompt,
    TraceStep,
)
from mcp_server.services.trace_steps import TraceSteps, shown
from mcp_server.storage.sql.run_tables import runs
from mcp_server.timestamps import iso, iso_or_none

MOST_CHILDREN = 100
MOST_MESSAGES = 20
# What one page holds of steps at most, beside their number.
MOST_BYTES = 1_048_576
_RUN = "run://"


class TraceService:
    """Every method is one operation on `run://ID`, open to whoever may read the run."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        queue: RunQueue,
        redaction: Redaction,
    ) -> None:
        self._control = control
        self._access = RunAccess(operation, queue)
        self._redaction = redaction

    async def trace(
        self, principal: Principal, run: str, limit: int | None = None, cursor: str | None = None
    ) -> RunTrace:
        """Return one run with up to `limit` of its steps, in the order in which they began.

        Raises:
            NotFound: there is no such run in this tenant.
            InvalidInput: the limit or the cursor does not fit.
        """
        size, first = names.page_size(limit), _position(cursor)
        async with self._access.opening(principal, "read", run) as (_, found):
            steps = await self._steps(found)
            children = await self._children(principal, found)
        page = _page(steps[first : first + size])
        last = first + len(page)
        return RunTrace(
            **self._head(found),
            children=children[:MOST_CHILDREN],
            children_left_out=len(children) > MOST_CHILDREN,
            steps=page,
            next_cursor=names.encode_cursor(str(last)) if last < len(steps) else None,
        )

    async def _steps(self, run: Run) -> list[TraceStep]:
        told = TraceSteps(self._redaction, run.attempt, run.workers, _asked(run))
        async with aclosing(timed_events(self._control, run.id)) as pages:
            async for page in pages:
                for at, event in page:
                    told.add(at, event)
        return told.steps

    async def _children(self, principal: Principal, run: Run) -> list[TraceChild]:
        listed = (
            runs.c.id,
            runs.c.kind,
            runs.c.agent,
            runs.c.status,
            runs.c.created_at,
            runs.c.ended_at,
            runs.c.usage,
        )
        query = (
            select(*listed)
            .where(runs.c.tenant == run.tenant, runs.c.origin == f"{_RUN}{run.id}")
            .where(*visible(principal))
            .order_by(runs.c.created_at, runs.c.id)
            .limit(MOST_CHILDREN + 1)
        )
        async with self._control.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [
            TraceChild(
                run=row.id,
                kind=row.kind,
                agent=row.agent,
                status=row.status,
                created_at=iso(row.created_at),
                ended_at=iso_or_none(row.ended_at),
                usage=row.usage,
            )
            for row in rows
        ]

    def _head(self, run: Run) -> dict[str, Any]:
        item = run_item(run)
        origin = run.origin or ""
        return {
            "run": run.id,
            "trace_id": place_of(run).trace_id,
            "status": run.status,
            "kind": item["kind"],
            "agent": run.agent,
            "agent_version": item["agent_version"],
            "tool": item["tool"],
            "parent": origin.removeprefix(_RUN) if origin.startswith(_RUN) else None,
            "origin": None if origin.startswith(_RUN) else run.origin,
            "attempts": run.attempt,
            "created_at": item["created_at"],
            "started_at": item["started_at"],
            "ended_at": item["ended_at"],
            "seconds": _seconds(run.created_at, run.ended_at),
            "queue_seconds": _seconds(run.created_at, run.started_at),
            "error": item["error"],
            "usage": run.usage,
            "prompt": self._prompt(run),
            "arguments": self._arguments(run),
        }

    def _prompt(self, run: Run) -> TracePrompt | None:
        messages = _messages(run)
        if messages is None:
            return None
        redacted: list[Any] = self._redaction.apply(messages[-MOST_MESSAGES:])
        return TracePrompt(
            instructions=shown(
                self._redaction.filled(_instructions(run), _given(run).get("variables") or {})
            ),
            messages=[
                TraceMessage(role=str(each["role"]), content=shown(each.get("content") or ""))
                for each in redacted
            ],
            total=len(messages),
        )

    def _arguments(self, run: Run) -> str | None:
        given = _given(run)
        return shown(self._redaction.apply(given["arguments"])) if "arguments" in given else None


def _position(cursor: str | None) -> int:
    text = names.decode_cursor(cursor)
    if text is None:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidInput(
            "cursor: it is none of a trace; pass next_cursor of the page before", param="cursor"
        )
    return int(text)


def _page(steps: Sequence[TraceStep]) -> list[TraceStep]:
    """Return the first of the steps, at least one if there is any, within the bytes of a page."""
    page: list[TraceStep] = []
    size = 0
    for step in steps:
        size += len(orjson.dumps(step, default=str))
        if page and size > MOST_BYTES:
            break
        page.append(step)
    return page


def _messages(run: Run) -> list[dict[str, Any]] | None:
    return _given(run).get("messages") if run.kind == "agent" else None


def _instructions(run: Run) -> str:
    definition: dict[str, Any] = run.definition or {}
    return definition.get("instructions", "")


def _given(run: Run) -> dict[str, Any]:
    given: object = run.input
    return cast("dict[str, Any]", given) if isinstance(given, dict) else {}


def _asked(run: Run) -> int:
    """Return with how many messages the model was first asked."""
    return len(_messages(run) or ()) + bool(_instructions(run))


def _seconds(first: datetime | None, last: datetime | None) -> float | None:
    if first is None or last is None:
        return None
    return round(max((last - first).total_seconds(), 0.0), 3)
