"""The steps of runs: each begun and finished under the lease's epoch, its result stored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.runs.cleaning import clean
from mcp_server.runs.events import TYPED, frame
from mcp_server.runs.record import Event
from mcp_server.runs.tally import ADDED
from mcp_server.runs.tally import TYPED as COUNTED
from mcp_server.storage.sql.run_tables import run_steps
from mcp_server.storage.sql.schema import JsonText

_BEGIN = text(
    """
    with owner as (
        select id from runs where id = :run and lease = :epoch for share
    ), begun as (
        insert into run_steps (run, step, finished, epoch)
        select id, :step, false, :epoch from owner
        on conflict (run, step) do update set epoch = excluded.epoch, at = clock_timestamp()
            where not run_steps.finished
    )
    select count(*) from owner
    """
).bindparams(bindparam("epoch", type_=BigInteger()))
# A step that is finished keeps its result, and what was sent again after its answer got lost adds
# no event twice.
_FINISH = text(
    f"""
    with owner as (
        update runs set last_seq = case when :last < :first then last_seq else :last end,
            strikes = 0, progress = coalesce(:progress, progress), {ADDED}
        where id = :run and lease = :epoch and (:last < :first or last_seq = :first - 1)
        returning id
    ), frame as (
        insert into run_events (run, first_seq, last_seq, events)
        select id, :first, :last, :events from owner where :last >= :first
    ), done as (
        insert into run_steps (run, step, finished, result, epoch)
        select id, :step, true, :result, :epoch from owner
        on conflict (run, step) do update set finished = true, result = excluded.result,
            epoch = excluded.epoch, at = clock_timestamp()
            where not run_steps.finished
    )
    select count(*) from owner
    """  # noqa: S608  names of our own
).bindparams(
    *(*TYPED, *COUNTED, bindparam("progress", type_=JsonText())),
    bindparam("result", type_=JsonText()),
)
_IS_DONE = text(
    """
    select exists (
        select from runs r join run_events e on e.run = r.id join run_steps s on s.run = r.id
        where r.id = :run and r.lease = :epoch and s.step = :step and s.finished
            and e.first_seq = :first and e.last_seq = :last and e.events = :events)
    """
).bindparams(*TYPED)


@dataclass(frozen=True, slots=True)
class StepState:
    """A step that began; unless it is `finished` it may or may not have taken effect."""

    finished: bool
    result: Any


class RunSteps:
    """The steps of every run."""

    def __init__(self, control: AsyncEngine) -> None:
        self._at_once = control.execution_options(isolation_level="AUTOCOMMIT")

    async def load(self, run: str) -> dict[str, StepState]:
        """Return the steps of a run that began, by their ids."""
        columns = (run_steps.c.step, run_steps.c.finished, run_steps.c.result)
        query = select(*columns).where(run_steps.c.run == run)
        async with self._at_once.connect() as connection:
            rows = await connection.execute(query)
            return {row.step: StepState(row.finished, row.result) for row in rows}

    async def begin(self, run: str, epoch: int, step: str) -> bool:
        """Store that a step begins; False if the lease does not hold the run any more."""
        given = {"run": run, "epoch": epoch, "step": step}
        async with self._at_once.connect() as connection:
            return bool(await connection.scalar(_BEGIN, given))

    async def finish(
        self, run: str, epoch: int, step: str, result: Any, first: int, events: Sequence[Event]
    ) -> bool:
        """Store a step's result, up to 4 MB of JSON, together with events `first`, `first + 1`, ….

        There may be no events. False if the lease does not hold the run any more, or `first` is not
        the next number. The same may be sent again; the result that was stored first stays.
        """
        sent = {**frame(run, epoch, first, events), "step": step, "result": clean(result)}
        async with self._at_once.connect() as connection:
            if await connection.scalar(_FINISH, sent):
                return True
            del sent["progress"], sent["result"]
            return bool(events) and bool(await connection.scalar(_IS_DONE, sent))
