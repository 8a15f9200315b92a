"""Ends of runs: those that come while one is being stored are stored together, in the next transaction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BigInteger, Boolean, Text, TextualSelect, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.runs.cleaning import clean, clean_event
from mcp_server.runs.outage import OUTAGE
from mcp_server.runs.record import Outcome, Recorder, Run, status_event
from mcp_server.runs.transition import RunRow, run_of
from mcp_server.storage.sql.run_tables import runs
from mcp_server.storage.sql.schema import encode_json

# One transaction ends at most so many runs, and stores not much more than so many bytes.
MOST_RUNS = 100
MOST_BYTES = 1_000_000

# What the caller gave, or the worker knows since the claim, is not sent back.
_KNOWN = {"definition", "input", "output"}
_COLUMNS = tuple(column for column in runs.c if column.name not in _KNOWN)
_NAMES = ", ".join(f"runs.{column.name}" for column in _COLUMNS)


def _statement(record: Recorder, waiting: str) -> TextualSelect:
    """Build the statement that ends and journals the runs that the lease holds.

    `waiting` says what of a row that somebody else holds just now.
    """
    return (
        text(
            f"""
        with given as materialized (
            select * from unnest(:runs, :statuses, :outputs, :errors, :usages, :dead, :counts, :told)
                as one (run, status, output, error, usage, dead_letter, count, events)
        ), held as materialized (
            select id from runs where id = any(:runs) and lease = :epoch
            order by id for no key update {waiting}
        ), ended as (
            update runs set status = given.status, lease = null, request = null,
                output = given.output, error = given.error, usage = given.usage,
                dead_letter = given.dead_letter, ended_at = clock_timestamp(),
                purge_at = purge_time(ttl_seconds), last_seq = last_seq + given.count
            from given
            where runs.id = any(array(select id from held)) and given.run = runs.id
            returning {_NAMES}, given.count, given.events
        ), frame as (
            insert into run_events (run, first_seq, last_seq, events)
            select id, last_seq - count + 1, last_seq, events from ended
        ), journalled as (
            {record.statement("ended")}
        )
        select {_NAMES} from ended as runs
        """  # noqa: S608  only names of columns
        )
        .bindparams(
            bindparam("epoch", type_=BigInteger()),
            bindparam("dead", type_=ARRAY(Boolean)),
            bindparam("counts", type_=ARRAY(BigInteger)),
            *(
                bindparam(name, type_=ARRAY(Text))
                for name in ("runs", "statuses", "outputs", "errors", "usages", "told")
            ),
        )
        .columns(*_COLUMNS)
    )


@dataclass(eq=False, slots=True)
class _End:
    """One end that is to be stored; `tried` once it was, together with others."""

    run: str
    epoch: int
    row: tuple[Any, ...]
    output: Any
    size: int
    tried: bool = False
    ended: RunRow | None = None


class Completion:
    """Stores the ends of a process's runs."""

    def __init__(self, control: AsyncEngine, record: Recorder) -> None:
        # One statement, one round trip, no transaction that stays open when the process stops.
        self._at_once = control.execution_options(isolation_level="AUTOCOMMIT")
        # Who takes several rows waits for none of them: that could be in a circle.
        self._together_statement = _statement(record, "skip locked")
        self._alone = _statement(record, "")
        self._waiting: list[_End] = []
        self._turn = asyncio.Lock()

    async def end(self, run: str, epoch: int, outcome: Outcome) -> Run | None:
        """End a run with its last events, without its definition and input; None if it is not ours."""
        end = _end(run, epoch, outcome)
        self._waiting.append(end)
        try:
            async with self._turn:
                if not end.tried:
                    await self._together(end)
        finally:
            if not end.tried:
                self._waiting.remove(end)
        if end.ended is None:  # somebody holds its row just now, or it is lost
            end.ended = (await self._store(self._alone, [end])).get(run)
        return None if end.ended is None else replace(run_of(end.ended), output=end.output)

    async def _together(self, own: _End) -> None:
        """Store what waits; what could not be is tried alone, by whom it concerns."""
        batch = self._batch(own)
        self._waiting = [end for end in self._waiting if end not in batch]
        for end in batch:
            end.tried = True
        try:
            ended = await self._store(self._together_statement, batch)
        except OUTAGE:
            return
        for end in batch:
            end.ended = ended.get(end.run)

    def _batch(self, own: _End) -> list[_End]:
        """Choose what goes with `own`: of the same lease, each run once, within the bounds."""
        batch = {own.run: own}
        size = own.size
        for end in self._waiting:
            if end.epoch != own.epoch or end.run in batch:
                continue
            size += end.size
            if size > MOST_BYTES or len(batch) == MOST_RUNS:
                break
            batch[end.run] = end
        return list(batch.values())

    async def _store(self, statement: TextualSelect, batch: list[_End]) -> dict[str, RunRow]:
        names = ("runs", "statuses", "outputs", "errors", "usages", "dead", "counts", "told")
        columns = zip(*(end.row for end in batch), strict=True)
        given = {name: list(column) for name, column in zip(names, columns, strict=True)}
        async with self._at_once.connect() as connection:
            rows = await connection.execute(statement, {**given, "epoch": batch[0].epoch})
            return {row.id: row for row in rows}


def _end(run: str, epoch: int, outcome: Outcome) -> _End:
    last = status_event(outcome.status, outcome.error)
    events = [clean_event(event) for event in (*outcome.events, last)]
    output = clean(outcome.output)
    kept = [_json(value) for value in (output, clean(outcome.error), clean(outcome.usage))]
    told = encode_json(events)
    size = sum(len(value or "") for value in (*kept, told))
    row = (run, outcome.status, *kept, outcome.dead_letter, len(events), told)
    return _End(run, epoch, row, output, size)


def _json(value: Any) -> str | None:
    return None if value is None else encode_json(value)
