"""The statements of the queue that need a few lines: a new run, its twin, a list, an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, and_, bindparam, or_, select, text
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.dialects.postgresql import insert as upsert

from mcp_server.runs.cleaning import clean, clean_input
from mcp_server.runs.record import ENDED, LIVE, Event, Run, Status, status_event
from mcp_server.runs.transition import changed
from mcp_server.storage.sql.run_tables import run_events, run_steps, runs
from mcp_server.storage.sql.schema import JsonText

# Nobody's epoch: the step was finished by an answer from outside.
_NO_EPOCH = 0
# A list shows many runs; what may be big is read one by one.
_BIG = {"definition", "input", "output"}
_LISTED = tuple(column for column in runs.c if column.name not in _BIG)
# What of a new run has a type that its value does not tell.
_GIVEN = (
    "grant_scopes",
    "agent_version",
    "definition",
    "input",
    "not_before",
    "expires_at",
    "timeout_seconds",
    "ttl_seconds",
    "conversation",
    "traceparent",
)

_ROW: dict[str, Any] = {column.name: column.type for column in runs.c}
_NAMES = ", ".join(_ROW)
_EVENTS = bindparam("events", type_=JsonText())

# A text: to build what every run needs anew each time would cost more than to execute it. Its columns
# are in their order, which spares SQLAlchemy to look for their names in each result. It gives no row if
# the run has a twin.
INSERTION = (
    text(
        f"""
        with created as (
            insert into runs (id, tenant, subject, key_id, grant_scopes, kind, agent, agent_version,
                definition, input, status, priority, not_before, dedupe_key, origin, traceparent, conversation,
                turn,
                max_retries, timeout_seconds, expires_at, ttl_seconds, last_seq)
            values (:id, :tenant, :subject, :key_id, :grant_scopes, :kind, :agent, :agent_version,
                :definition, :input, 'queued', :priority, coalesce(:not_before, clock_timestamp()),
                :dedupe_key, :origin, :traceparent, :conversation,
                case when :conversation is not null then (
                    select coalesce(max(turn), 0) + 1 from runs
                    where tenant = :tenant and conversation = :conversation
                        and status in ('queued', 'running', 'input_required')) end,
                :max_retries, :timeout_seconds, :expires_at, :ttl_seconds, 1)
            on conflict do nothing returning *
        ), frame as (
            insert into run_events (run, first_seq, last_seq, events)
            select id, 1, 1, :events from created
        )
        select {_NAMES} from created
        """  # noqa: S608  only names of columns
    )
    .bindparams(_EVENTS, *(bindparam(name, type_=_ROW[name]) for name in _GIVEN))
    .columns(*runs.c)
)


def insertion(run: Run) -> dict[str, Any]:
    """Return the parameters of INSERTION for a new run.

    Raises:
        InvalidInput: the input is over 16 MB of JSON.
    """
    definition: Mapping[str, Any] = run.definition or {}
    return {
        "id": run.id,
        "tenant": run.tenant,
        "subject": run.subject,
        "key_id": run.key_id,
        "grant_scopes": sorted(run.grant),
        "kind": run.kind,
        "agent": run.agent,
        "agent_version": definition.get("version"),
        "definition": clean(run.definition),
        "input": clean_input(run.input),
        "priority": run.priority,
        "not_before": run.not_before,
        "dedupe_key": run.dedupe_key,
        "origin": run.origin,
        "traceparent": run.traceparent,
        "conversation": run.conversation,
        "max_retries": run.max_retries,
        "timeout_seconds": run.timeout_seconds,
        "expires_at": run.expires_at,
        "ttl_seconds": run.ttl_seconds,
        "events": [status_event("queued")],
    }


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


def ended_runs(ids: Sequence[str]) -> Select[*tuple[Any, ...]]:
    """Build the query for those of the runs that have ended, without what may be big."""
    return select(*_LISTED).where(runs.c.id.in_(ids), runs.c.status.in_(ENDED))


def finished_by(run: str, request: dict[str, Any], answer: Any) -> Insert:
    """Build the statement that makes an answer the result of the step that asked for it."""
    done = {"finished": True, "result": answer, "request": request["id"], "epoch": _NO_EPOCH}
    stored = upsert(run_steps).values(run=run, step=request["step"], **done)
    return stored.on_conflict_do_update(
        index_elements=["run", "step"], set_=done, where=run_steps.c.finished.is_(False)
    )


def part_answered(
    run: str, request: dict[str, Any], part: str, answer: Any, by: str | None
) -> Select[*tuple[Any, ...]]:
    """Build the statement that notes the answer to one part of a request that has others open."""
    told = answered_event(request, answer, by) | {"part": part}
    noted = request | {"answers": {**request.get("answers", {}), part: answer}}
    return changed(runs.c.id == run, values={"request": noted}, events=[told])


def answered_event(request: dict[str, Any], answer: Any, by: str | None) -> Event:
    """Build the event that tells an answer, and whose it is if that is known."""
    told: Event = {"type": "input", "request": request["id"], "answer": answer}
    return told if by is None else told | {"by": by}


def answered_before(run: str, request_id: str | None) -> Select[bool]:
    """Build the query that tells whether a request of the run has its answer."""
    answered = (run_steps.c.run == run) & (run_steps.c.request == request_id)
    return select(select(run_steps.c.run).where(answered, run_steps.c.finished).exists())
