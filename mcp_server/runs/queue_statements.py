"""The statements of the queue that need a few lines: a new run, its twin, a list, an answer."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, func, insert, literal, or_, select
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.dialects.postgresql import insert as upsert

from mcp_server.runs.cleaning import clean, clean_input
from mcp_server.runs.record import LIVE, Run, Status, status_event
from mcp_server.runs.transition import FRAME, changed
from mcp_server.storage.sql.run_tables import run_events, run_steps, runs
from mcp_server.storage.sql.schema import JsonText

# Nobody's epoch: the step was finished by an answer from outside.
_NO_EPOCH = 0
# A list shows many runs; what may be big is read one by one.
_BIG = {"definition", "input", "output"}
_LISTED = tuple(column for column in runs.c if column.name not in _BIG)


def insertion(run: Run) -> Select[*tuple[Any, ...]]:
    """Build the statement that stores a queued run and gives its row, none if it has a twin.

    Raises:
        InvalidInput: the input is over 16 MB of JSON.
    """
    values = {
        "id": run.id,
        "tenant": run.tenant,
        "subject": run.subject,
        "key_id": run.key_id,
        "grant_scopes": sorted(run.grant),
        "kind": run.kind,
        "agent": run.agent,
        "definition": clean(run.definition),
        "input": clean_input(run.input),
        "status": "queued",
        "priority": run.priority,
        "not_before": run.not_before or func.clock_timestamp(),
        "dedupe_key": run.dedupe_key,
        "origin": run.origin,
        "max_retries": run.max_retries,
        "timeout_seconds": run.timeout_seconds,
        "expires_at": run.expires_at,
        "ttl_seconds": run.ttl_seconds,
        "last_seq": 1,
    }
    row = upsert(runs).values(values).on_conflict_do_nothing().returning(*runs.c).cte("created")
    told = literal([status_event("queued")], JsonText())
    frame = select(row.c.id, literal(1), literal(1), told)
    return select(row).add_cte(insert(run_events).from_select(FRAME, frame).cte("frame"))


def twin_of(run: Run) -> Select[*tuple[Any, ...]]:
    """Build the query for what stands in the way of a new run: itself, or a live one with its key."""
    same_key = and_(runs.c.dedupe_key == run.dedupe_key, runs.c.status.in_(LIVE))
    query = select(runs).where(runs.c.tenant == run.tenant)
    return query.where(or_(runs.c.id == run.id, same_key)).order_by((runs.c.id == run.id).desc())


def loading(tenant: str, run: str) -> Select[*tuple[Any, ...]]:
    """Build the query for one run, with the time of its newest event."""
    newest = select(run_events.c.at).where(run_events.c.run == runs.c.id)
    newest = newest.order_by(run_events.c.first_seq.desc()).limit(1).scalar_subquery()
    query = select(*runs.c, newest.label("updated_at"))
    return query.where(runs.c.tenant == tenant, runs.c.id == run)


def listing(
    tenant: str,
    status: Status | None = None,
    kind: str | None = None,
    agent: str | None = None,
    created_by: tuple[str, str | None] | None = None,
) -> Select[*tuple[Any, ...]]:
    """Build the query for a tenant's runs, newest first, without what may be big."""
    query = select(*_LISTED).where(runs.c.tenant == tenant)
    if status is not None:
        query = query.where(runs.c.status == status)
    if kind is not None:
        within = runs.c.kind.startswith(f"{kind}/", autoescape=True)
        query = query.where(or_(runs.c.kind == kind, within))
    if agent is not None:
        query = query.where(runs.c.agent == agent)
    if created_by is not None:
        subject, key_id = created_by
        same_key = runs.c.key_id.is_not_distinct_from(key_id)
        query = query.where(runs.c.subject == subject, same_key)
    return query.order_by(runs.c.created_at.desc(), runs.c.id.desc())


def finished_by(run: str, request: dict[str, Any], answer: Any) -> Insert:
    """Build the statement that makes an answer the result of the step that asked for it."""
    done = {"finished": True, "result": answer, "request": request["id"], "epoch": _NO_EPOCH}
    stored = upsert(run_steps).values(run=run, step=request["step"], **done)
    return stored.on_conflict_do_update(
        index_elements=["run", "step"], set_=done, where=run_steps.c.finished.is_(False)
    )


def part_answered(
    run: str, request: dict[str, Any], part: str, answer: Any
) -> Select[*tuple[Any, ...]]:
    """Build the statement that notes the answer to one part of a request that has others open."""
    told = {"type": "input", "request": request["id"], "part": part, "answer": answer}
    noted = request | {"answers": {**request.get("answers", {}), part: answer}}
    return changed(runs.c.id == run, values={"request": noted}, events=[told])


def answered_before(run: str, request_id: str | None) -> Select[bool]:
    """Build the query that tells whether a request of the run has its answer."""
    answered = (run_steps.c.run == run) & (run_steps.c.request == request_id)
    return select(select(run_steps.c.run).where(answered, run_steps.c.finished).exists())
