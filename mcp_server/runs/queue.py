"""The queue of runs: the rows themselves, and every way in which a run moves from one status to the next.

Each method that changes something is one transaction, safe to repeat when its answer was lost, and
refused (None, False, an empty list) when the run is not as the caller thinks: `epoch` is the lease under
which a worker holds it. Wake-ups are the caller's, after the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import Conflict
from mcp_server.runs.claim import Claiming
from mcp_server.runs.cleaning import clean
from mcp_server.runs.completion import Completion
from mcp_server.runs.observing import Observing
from mcp_server.runs.queue_statements import (
    INSERTION,
    answered_before,
    answered_event,
    finished_by,
    insertion,
    listing,
    loading,
    part_answered,
    twin_of,
)
from mcp_server.runs.record import ENDED, LIVE, Event, Outcome, Recorder, Run, Status, status_event
from mcp_server.runs.transition import RunRow, apply, changed, ending, run_of
from mcp_server.storage.sql.run_tables import runs

# How often a creation looks again when the run that had its dedupe_key has just ended.
_CREATE_ROUNDS = 5
# Thirty years: a longer delay would leave the range of dates.
_LONGEST_SECONDS = 1e9

Answered = Literal["ok", "answered", "not_waiting"]


class RunQueue:
    """Runs of every tenant; `record` journals each change of status."""

    def __init__(self, control: AsyncEngine, record: Recorder) -> None:
        self._control = control
        # One statement, one round trip, no transaction that stays open when the process stops.
        self._at_once = control.execution_options(isolation_level="AUTOCOMMIT")
        self._record = record
        self._claiming = Claiming(control, record)
        self._completion = Completion(control, record)
        self.observing = Observing(control)

    async def create(self, run: Run, tx: AsyncConnection | None = None) -> tuple[Run, bool]:
        """Store a queued run with its first event; with `tx`, in the caller's transaction.

        Return the run and True; if a live run of the tenant has its `dedupe_key`, that one and False.

        Raises:
            InvalidInput: the input is over 16 MB of JSON. Conflict: the id is another run's.
        """
        given = insertion(run)
        if tx is not None:
            return await self._create(tx, run, given)
        async with self._control.begin() as own:
            return await self._create(own, run, given)

    async def claim(self, epoch: int, kinds: Collection[str], slots: int, share: int) -> list[Run]:
        """Take up to `slots` runs that are due, as running; none if the lease is gone.

        The tenant that has the least at work comes first, then priority, then the time since which a
        run could begin. No more than `share` runs of one tenant are held by the lease at once.
        """
        taken = await self._claiming.claim(epoch, kinds, slots, share)
        return [self.observing.tell(run) for run in taken]

    async def end(self, run: str, epoch: int, outcome: Outcome) -> Run | None:
        """End a run: its last event is the status; None if the lease does not hold it any more.

        The run comes back without its definition and input.
        """
        ended = await self._completion.end(run, epoch, outcome)
        return None if ended is None else self.observing.tell(ended)

    async def hand_back(
        self,
        run: str,
        epoch: int,
        *,
        attempt: int | None = None,
        delay_seconds: float = 0.0,
        error: dict[str, str] | None = None,
        retry: bool = False,
    ) -> bool:
        """Put a running run back into the queue; one that is to be cancelled is cancelled instead.

        `retry` counts the try as failed with `error`; the next one begins after the delay at the
        earliest. False if the lease does not hold the run any more, or claimed it again since `attempt`.
        """
        wait = func.make_interval(0, 0, 0, 0, 0, 0, min(delay_seconds, _LONGEST_SECONDS))
        values: dict[str, Any] = {"status": "queued", "lease": None}
        if delay_seconds > 0:
            values["not_before"] = func.clock_timestamp() + wait
        if retry:
            values["retries"] = runs.c.retries + 1

        def told(tried: int) -> list[Event]:
            why = {"type": "retry", "attempt": tried, "delay_seconds": delay_seconds}
            return [*([why | {"error": error}] if retry else []), status_event("queued")]

        return await self._let_go(run, epoch, attempt, values, told)

    async def suspend(
        self,
        run: str,
        epoch: int,
        step: str,
        request: dict[str, Any],
        *,
        attempt: int | None = None,
    ) -> bool:
        """Let a run wait for an answer; one that is to be cancelled is cancelled instead.

        `request` is `{id, step, kind, message, schema}`; `step` is the one whose result the answer will
        be. With `child`, `{run, request}`, it waits only as long as that other run asks that. False if the lease does not hold the run any more, or claimed it again since `attempt`.
        """
        asked = clean(request | {"step": step})
        values: dict[str, Any] = {"status": "input_required", "lease": None, "request": asked}
        values["awaits"] = asked.get("child", {}).get("run")
        events = [status_event("input_required") | {"request": asked}]
        return await self._let_go(run, epoch, attempt, values, lambda _: events)

    async def answer(
        self,
        tenant: str,
        run: str,
        request_id: str | None,
        answer: Any,
        part: str | None = None,
        by: str | None = None,
    ) -> Answered:
        """Give a waiting run its answer and queue it; None as `request_id` answers what is open.

        The first answer is the step's result for good; a later one for the same request is told
        "answered". So it is for each `part` of a request that has some: the run waits on until the last.
        `by` is the subject who answers.
        """
        answer = clean(answer)
        async with self._control.begin() as tx:
            row = await self._lock(tx, runs.c.tenant == tenant, runs.c.id == run)
            if row is None:
                return "not_waiting"
            asked = row.request
            if asked is None or request_id not in {None, asked["id"]}:
                before = await tx.scalar(answered_before(run, request_id))
                return "answered" if before else "not_waiting"
            known = asked.get("answers", {})
            if part is not None:
                if part not in asked.get("parts", {}) or part in known:
                    return "answered" if part in known else "not_waiting"
                if len(known) + 1 < len(asked["parts"]):
                    await tx.execute(part_answered(run, asked, part, answer, by))
                    return "ok"
                answer = {part: answer}
            if known:  # what was said first counts
                answer = {**answer, **known}
            await tx.execute(finished_by(run, asked, answer))
            told: list[Event] = [
                answered_event(asked, answer, by),
                status_event("queued"),
            ]
            values = {"status": "queued", "request": None, "strikes": 0}
            await apply(tx, self._record, changed(runs.c.id == run, values=values, events=told))
            return "ok"

    async def request_cancel(self, tenant: str, run: str) -> Status | None:
        """Cancel a run that waits, ask the worker of one that is running; return the status it has now.

        None if the tenant has no such run.
        """
        own = (runs.c.tenant == tenant, runs.c.id == run)
        async with self._control.begin() as tx:
            row = await self._lock(tx, *own)
            if row is None:
                return None
            if row.status in ENDED:
                return row.status
            asked = {"cancel_requested": True}
            if row.status == "running":
                await tx.execute(update(runs).where(*own).values(asked))
                return "running"
            values, events = ending("cancelled") | asked, [status_event("cancelled")]
            await apply(tx, self._record, changed(*own, values=values, events=events))
        await self.observing.tell_ends([run])
        return "cancelled"

    async def force_cancel(self, tenant: str, run: str) -> bool:
        """Cancel a live run without its worker, whose lease holds it no longer then."""
        live = (runs.c.tenant == tenant, runs.c.id == run, runs.c.status.in_(LIVE))
        values = {**ending("cancelled"), "cancel_requested": True}
        events = [status_event("cancelled")]
        statement = changed(*live, values=values, events=events)
        async with self._control.begin() as tx:
            ended = await apply(tx, self._record, statement) is not None
        if ended:
            await self.observing.tell_ends([run])
        return ended

    async def held(self, epoch: int) -> dict[str, bool]:
        """Return the runs that a lease holds, each with whether its cancellation was asked for."""
        query = select(runs.c.id, runs.c.cancel_requested).where(runs.c.lease == epoch)
        async with self._at_once.connect() as connection:
            return {row.id: row.cancel_requested for row in await connection.execute(query)}

    async def load(self, tenant: str, run: str) -> Run | None:
        """Return a run, None if the tenant has no such run."""
        found = await self._read(loading(tenant, run))
        return found[0] if found else None

    async def page(
        self,
        tenant: str,
        *,
        status: Status | None = None,
        kind: str | None = None,
        agent: str | None = None,
        created_by: tuple[str, str | None] | None = None,
        where: Sequence[ColumnElement[bool]] = (),
        limit: int,
        cursor: tuple[datetime, str] | None = None,
    ) -> list[Run]:
        """Return up to `limit` runs, newest first, without their definition, input and output.

        `kind` is one kind, or its part before the `/`. `created_by` is a subject and the id of its key.
        `where` are further conditions on the columns of `runs`. `cursor` are `created_at` and `id` of
        the last run of the page before.
        """
        asked = listing(tenant, status, kind, agent, created_by).where(*where).limit(limit)
        if cursor is not None:
            asked = asked.where(tuple_(runs.c.created_at, runs.c.id) < tuple_(*cursor))
        return await self._read(asked)

    async def children(self, run: Run) -> list[Run]:
        """Return the live runs that a run began, without their definition, input and output."""
        origin = f"run://{run.id}"
        asked = listing(run.tenant).where(runs.c.origin == origin, runs.c.status.in_(LIVE))
        return await self._read(asked)

    async def _let_go(
        self,
        run: str,
        epoch: int,
        attempt: int | None,
        values: dict[str, Any],
        told: Callable[[int], list[Event]],
    ) -> bool:
        """Take a run from its lease, if it is not to be cancelled; `told` are the events of this attempt."""
        async with self._control.begin() as tx:
            row = await self._lock(tx, *_held(run, epoch, attempt))
            if row is None:
                return False
            events = told(row.attempt)
            if row.cancel_requested:
                values, events = ending("cancelled"), [status_event("cancelled")]
            await apply(tx, self._record, changed(runs.c.id == run, values=values, events=events))
        if row.cancel_requested:
            await self.observing.tell_ends([run])
        return True

    async def _read(self, query: Select[*tuple[Any, ...]]) -> list[Run]:
        async with self._at_once.connect() as connection:
            return [run_of(row) for row in await connection.execute(query)]

    async def _create(
        self, tx: AsyncConnection, run: Run, given: dict[str, Any]
    ) -> tuple[Run, bool]:
        for _ in range(_CREATE_ROUNDS):
            row = await apply(tx, self._record, INSERTION, given)
            if row is not None:
                return run_of(row), True
            row = (await tx.execute(twin_of(run))).first()
            if row is not None:  # with our own id, it is what an earlier try stored
                return run_of(row), row.id == run.id
        raise Conflict(f"run {run.id} cannot be created: its id or dedupe_key is another run's")

    async def _lock(self, tx: AsyncConnection, *where: ColumnElement[bool]) -> RunRow | None:
        columns = (runs.c.status, runs.c.attempt, runs.c.cancel_requested, runs.c.request)
        query = select(*columns).where(*where).with_for_update(key_share=True)
        return (await tx.execute(query)).first()


def _held(run: str, epoch: int, attempt: int | None) -> tuple[ColumnElement[bool], ...]:
    # A worker that sends its change again, as the answer got lost, may have claimed the run anew.
    same = () if attempt is None else (runs.c.attempt == attempt,)
    return runs.c.id == run, runs.c.lease == epoch, *same
