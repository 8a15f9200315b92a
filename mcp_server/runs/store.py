"""The rows of runs and of their events: every change is one transaction, refused to a worker that lost the run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from sqlalchemy import Row, bindparam, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.runs.record import HELD, Event, Outcome, Run, Status, clean, status_event
from mcp_server.storage.sql.schema import JsonText, encode_json, run_events, runs

FRAMES_AT_ONCE = 100

# FOR SHARE makes an append wait for whoever is taking the run away, and then see that it is gone.
# An append whose answer got lost is sent again as it was: the frame that is there is the same.
_APPEND = text(
    """
    with owner as (
        select id from runs
        where id = :run and worker = :worker and status in ('queued', 'running') for share
    ), frame as (
        insert into run_events (run, first_seq, last_seq, events)
        select id, cast(:first as bigint), cast(:last as bigint), cast(:events as text)
        from owner on conflict (run, first_seq) do nothing
    )
    select count(*) from owner
    """
)
_STALE = text(
    """
    update runs set
        status = case when cancel_requested then 'cancelled' else 'failed' end,
        error = case when cancel_requested then null else :error end,
        ended_at = clock_timestamp()
    where id in (
        select id from runs where status in ('queued', 'running')
            and heartbeat_at < clock_timestamp() - make_interval(secs => :seconds)
        for update skip locked
    )
    returning id, tenant, subject, status
    """
).bindparams(bindparam("error", type_=JsonText()))


class Recorder(Protocol):
    """Journals a change of a run's status."""

    async def __call__(
        self, connection: AsyncConnection, *, tenant: str, subject: str, run: str, status: str
    ) -> None:
        """Write the entry in the transaction of the change."""
        ...


class RunStore:
    """Runs of every tenant; `worker` is the name under which this process holds some of them."""

    def __init__(self, control: AsyncEngine, worker: str, record: Recorder) -> None:
        self._control = control
        # One statement, one round trip: a worker that is stopped in the middle holds no lock on a
        # run that others wait to take away.
        self._at_once = control.execution_options(isolation_level="AUTOCOMMIT")
        self._worker = worker
        self._record = record

    async def create(self, run: Run) -> Run:
        """Store a queued run, held by this worker, with its first event."""
        values = {
            "id": run.id,
            "tenant": run.tenant,
            "subject": run.subject,
            "key_id": run.key_id,
            "grant_scopes": sorted(run.grant),
            "kind": run.kind,
            "agent": run.agent,
            "definition": clean(run.definition),
            "input": clean(run.input),
            "status": "queued",
            "worker": self._worker,
            "heartbeat_at": func.clock_timestamp(),
        }
        async with self._control.begin() as tx:
            row = (await tx.execute(insert(runs).values(values).returning(*runs.c))).one()
            await _add_frame(tx, run.id, 1, [status_event("queued")])
            await self._journal(tx, row, "queued")
        return _run(row)

    async def begin(self, run: str) -> int | None:
        """Move a run to running and return its next number; None if this worker does not hold it."""
        async with self._control.begin() as tx:
            row = await self._lock(tx, run)
            if row is None:
                return None
            if row.status == "queued":
                started = {"status": "running", "started_at": func.clock_timestamp()}
                await self._change(tx, row, started, [status_event("running")])
            return await _last_seq(tx, run) + 1

    async def append(self, run: str, first: int, events: Sequence[Event]) -> bool:
        """Store events `first`, `first + 1`, …; False if this worker does not hold the run any more."""
        at = {"run": run, "worker": self._worker, "first": first}
        frame = {"last": first + len(events) - 1, "events": encode_json(events)}
        async with self._at_once.connect() as connection:
            return bool(await connection.scalar(_APPEND, at | frame))

    async def end(self, run: str, outcome: Outcome) -> bool:
        """End a run; the last event, in the same transaction, is its status.

        False if it has ended already, or this worker does not hold it any more.
        """
        ended = {
            "status": outcome.status,
            "output": clean(outcome.output),
            "error": clean(outcome.error),
            "usage": clean(outcome.usage),
            "ended_at": func.clock_timestamp(),
        }
        last = status_event(outcome.status, outcome.error)
        async with self._control.begin() as tx:
            row = await self._lock(tx, run)
            if row is not None:
                await self._change(tx, row, ended, [*outcome.events, last])
            return row is not None

    async def heartbeat(self, held: Collection[str]) -> set[str]:
        """Say that this worker lives; return those of `held` that it still holds."""
        beat = (
            update(runs)
            .where(runs.c.id.in_(held), runs.c.worker == self._worker, runs.c.status.in_(HELD))
            .values(heartbeat_at=func.clock_timestamp())
            .returning(runs.c.id)
        )
        async with self._at_once.connect() as connection:
            return set(await connection.scalars(beat))

    async def to_cancel(self, held: Collection[str]) -> set[str]:
        """Return those of `held` whose cancellation someone asked for."""
        asked = select(runs.c.id).where(runs.c.id.in_(held), runs.c.cancel_requested)
        async with self._control.connect() as tx:
            return set(await tx.scalars(asked))

    async def request_cancel(self, tenant: str, run: str) -> None:
        """Ask whoever holds the run to cancel it."""
        ask = update(runs).where(runs.c.tenant == tenant, runs.c.id == run)
        async with self._at_once.connect() as connection:
            await connection.execute(
                ask.where(runs.c.status.in_(HELD)).values(cancel_requested=True)
            )

    async def reap(self, stale_seconds: float, error: dict[str, str]) -> list[str]:
        """End the runs whose worker has been silent for too long; return their ids."""
        async with self._control.begin() as tx:
            stale = await tx.execute(_STALE, {"seconds": stale_seconds, "error": error})
            rows = stale.all()
            for row in rows:
                seq = await _last_seq(tx, row.id) + 1
                told = None if row.status == "cancelled" else error
                await _add_frame(tx, row.id, seq, [status_event(row.status, told)])
                await self._journal(tx, row, row.status)
        return [row.id for row in rows]

    async def load(self, tenant: str, run: str) -> tuple[Run, int] | None:
        """Return a run and the number of its last event, None if the tenant has no such run."""
        query = select(runs).where(runs.c.tenant == tenant, runs.c.id == run)
        async with self._control.connect() as tx:
            row = (await tx.execute(query)).first()
            return None if row is None else (_run(row), await _last_seq(tx, run))

    async def events(self, run: str, after: int) -> tuple[list[Event], Status | None]:
        """Return the next events after number `after`, each with its `seq`, and the run's status.

        The status is the one before the events were read: once it is an end and no event comes,
        none ever will. None means that the run is gone.
        """
        query = (
            select(run_events)
            .where(run_events.c.run == run, run_events.c.last_seq > after)
            .order_by(run_events.c.first_seq)
            .limit(FRAMES_AT_ONCE)
        )
        async with self._control.connect() as tx:
            status = await tx.scalar(select(runs.c.status).where(runs.c.id == run))
            frames = (await tx.execute(query)).all()
        numbered = (
            {"seq": seq, **event}
            for frame in frames
            for seq, event in enumerate(frame.events, frame.first_seq)
        )
        return [event for event in numbered if event["seq"] > after], status

    async def _lock(self, tx: AsyncConnection, run: str) -> Row[*tuple[Any, ...]] | None:
        held = (runs.c.id == run) & (runs.c.worker == self._worker) & runs.c.status.in_(HELD)
        columns = (runs.c.id, runs.c.tenant, runs.c.subject, runs.c.status)
        return (await tx.execute(select(*columns).where(held).with_for_update())).first()

    async def _change(
        self,
        tx: AsyncConnection,
        row: Row[*tuple[Any, ...]],
        values: dict[str, Any],
        events: Sequence[Event],
    ) -> None:
        await tx.execute(update(runs).where(runs.c.id == row.id).values(values))
        seq = await _last_seq(tx, row.id) + 1
        await _add_frame(tx, row.id, seq, [clean(event) for event in events])
        await self._journal(tx, row, values["status"])

    async def _journal(self, tx: AsyncConnection, row: Row[*tuple[Any, ...]], status: str) -> None:
        await self._record(tx, tenant=row.tenant, subject=row.subject, run=row.id, status=status)


async def _add_frame(tx: AsyncConnection, run: str, first: int, events: list[Event]) -> None:
    last = first + len(events) - 1
    frame = {"run": run, "first_seq": first, "last_seq": last, "events": events}
    await tx.execute(insert(run_events).values(frame))


async def _last_seq(tx: AsyncConnection, run: str) -> int:
    query = select(func.max(run_events.c.last_seq)).where(run_events.c.run == run)
    return await tx.scalar(query) or 0


def _run(row: Row[Any]) -> Run:
    return Run(
        id=row.id,
        tenant=row.tenant,
        subject=row.subject,
        key_id=row.key_id,
        grant=frozenset(row.grant_scopes),
        kind=row.kind,
        agent=row.agent,
        definition=row.definition,
        input=row.input,
        status=row.status,
        output=row.output,
        error=row.error,
        usage=row.usage,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )
