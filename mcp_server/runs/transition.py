"""One change of a run: its row, the frame that tells it and its journal entry, in one transaction.

Every transaction of the engine reads what is committed (READ COMMITTED) and decides by the condition
of its UPDATE, which PostgreSQL checks again on the newest version of a row that another transaction held.
So of two that want the same run (claim, cancel, answer, expire, reap, the worker's own end) the first to
lock the row wins, and the condition of the other no longer holds.

The order of locks is: the row of run_leases, then rows of runs. Who takes several rows of runs at once
takes only those that nobody holds (SKIP LOCKED), and whoever holds a lease's row never waits for a row
of runs; so nothing waits in a circle.

`runs.last_seq` is the one truth for the numbers of events: whatever adds an event moves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Executable, Row, Select, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.runs.cleaning import clean_event
from mcp_server.runs.record import Change, Event, Recorder, Run
from mcp_server.storage.sql.run_tables import run_events, runs
from mcp_server.storage.sql.schema import JsonText

RunRow = Row[*tuple[Any, ...]]

_USED = ("agent_version", "turns", "tool_calls", "tool_errors")
_TIMES = ("created_at", "started_at", "ended_at", "purge_at")
_FRAME = ("run", "first_seq", "last_seq", "events")


def ending(status: str) -> dict[str, Any]:
    """Return the columns that the end of a run sets."""
    return {
        "status": status,
        "lease": None,
        "request": None,
        "ended_at": func.clock_timestamp(),
        "purge_at": func.purge_time(runs.c.ttl_seconds),
    }


def changed(
    *where: ColumnElement[bool], values: Mapping[str, Any], events: Sequence[Event]
) -> Select[*tuple[Any, ...]]:
    """Build the statement that changes one run, adds `events` to it and gives the new row, if any."""
    count = len(events)
    row = (
        update(runs)
        .where(*where)
        .values({**values, "last_seq": runs.c.last_seq + count})
        .returning(*runs.c)
        .cte("changed")
    )
    if not count:
        return select(row)
    told = literal([clean_event(event) for event in events], JsonText())
    frame = select(row.c.id, row.c.last_seq - (count - 1), row.c.last_seq, told)
    return select(row).add_cte(insert(run_events).from_select(_FRAME, frame).cte("frame"))


async def journalled(connection: AsyncConnection, record: Recorder, rows: Sequence[RunRow]) -> None:
    """Journal the new status of each row."""
    if rows:
        await record(
            connection, [Change(row.tenant, row.subject, row.id, row.status) for row in rows]
        )


async def apply(
    connection: AsyncConnection,
    record: Recorder,
    statement: Executable,
    given: Mapping[str, Any] | None = None,
) -> RunRow | None:
    """Execute a statement that changes at most one run and gives its row, and journal its new status."""
    row = (await connection.execute(statement, given)).first()
    if row is not None:
        await journalled(connection, record, [row])
    return row


def run_of(row: RunRow) -> Run:
    """Read a row; columns that were not selected are None."""
    return Run(
        id=row.id,
        tenant=row.tenant,
        subject=row.subject,
        key_id=row.key_id,
        grant=frozenset(row.grant_scopes),
        kind=row.kind,
        agent=row.agent,
        definition=getattr(row, "definition", None),
        input=getattr(row, "input", None),
        priority=row.priority,
        not_before=row.not_before,
        dedupe_key=row.dedupe_key,
        origin=row.origin,
        traceparent=row.traceparent,
        conversation=row.conversation,
        max_retries=row.max_retries,
        timeout_seconds=row.timeout_seconds,
        expires_at=row.expires_at,
        ttl_seconds=row.ttl_seconds,
        status=row.status,
        epoch=row.lease,
        attempt=row.attempt,
        workers=row.workers,
        retries=row.retries,
        cancel_requested=row.cancel_requested,
        dead_letter=row.dead_letter,
        last_seq=row.last_seq,
        request=row.request,
        progress=row.progress,
        output=getattr(row, "output", None),
        error=row.error,
        usage=row.usage,
        **{name: getattr(row, name) for name in (*_USED, *_TIMES)},
        updated_at=getattr(row, "updated_at", None),
    )
