"""The events of runs: numbered from 1 without gaps, stored in frames, readable from any number."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import BigInteger, Integer, Text, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.runs.cleaning import clean_event
from mcp_server.runs.record import Event, Status
from mcp_server.runs.tally import ADDED, tally
from mcp_server.runs.tally import TYPED as COUNTED
from mcp_server.storage.sql.run_tables import runs
from mcp_server.storage.sql.schema import JsonText, encode_json

# One read gives at least one frame and at most this many bytes of them.
MOST_BYTES_READ = 8_000_000
FRAMES_AT_ONCE = 100

TYPED = (
    bindparam("epoch", type_=BigInteger()),
    bindparam("first", type_=BigInteger()),
    bindparam("last", type_=BigInteger()),
)
# The update is the fence: it waits for whoever is taking the run away, and then sees that it is gone.
_APPEND = text(
    f"""
    with owner as (
        update runs set last_seq = :last, progress = coalesce(:progress, progress), {ADDED}
        where id = :run and lease = :epoch and last_seq = :first - 1 returning id
    ), frame as (
        insert into run_events (run, first_seq, last_seq, events)
        select id, :first, :last, :events from owner
    )
    select count(*) from owner
    """  # noqa: S608  names of our own
).bindparams(*TYPED, *COUNTED, bindparam("progress", type_=JsonText()))
# What was sent again after its answer got lost is there already; a new statement sees it.
_IS_THERE = text(
    """
    select exists (
        select from runs r join run_events e on e.run = r.id
        where r.id = :run and r.lease = :epoch
            and e.first_seq = :first and e.last_seq = :last and e.events = :events)
    """
).bindparams(*TYPED)
_READ = (
    text(
        """
    select r.status, f.first_seq, f.events from runs r left join lateral (
        select first_seq, events from (
            select first_seq, events, sum(octet_length(events)) over (order by first_seq)
                - octet_length(events) as before
            from run_events where run = r.id and last_seq > :after
            order by first_seq limit :frames
        ) sized where before < :bytes
    ) f on true where r.id = :run order by f.first_seq
    """
    )
    .bindparams(
        bindparam("after", type_=BigInteger()),
        bindparam("frames", type_=Integer()),
        bindparam("bytes", type_=BigInteger()),
    )
    .columns(status=Text(), first_seq=BigInteger(), events=JsonText())
)


def frame(run: str, epoch: int, first: int, events: Sequence[Event]) -> dict[str, Any]:
    """Return one frame as the parameters of a statement; its events are clean."""
    kept = [clean_event(event) for event in events]
    progress = [
        {name: event[name] for name in event if name != "type"}
        for event in kept
        if event.get("type") == "progress"
    ]
    return {
        "run": run,
        "epoch": epoch,
        "first": first,
        "last": first + len(kept) - 1,
        "events": encode_json(kept),
        "progress": progress[-1] if progress else None,
        **tally(kept),
    }


class RunEvents:
    """The events of every run."""

    def __init__(self, control: AsyncEngine) -> None:
        # One statement, one round trip: a worker that is stopped in the middle of it holds no lock on
        # a run that others wait to take away.
        self._at_once = control.execution_options(isolation_level="AUTOCOMMIT")

    async def append(self, run: str, epoch: int, first: int, events: Sequence[Event]) -> bool:
        """Store events `first`, `first + 1`, …, of which there is at least one.

        False if the lease does not hold the run any more, or `first` is not the next number. The same
        frame may be sent again.
        """
        sent = frame(run, epoch, first, events)
        async with self._at_once.connect() as connection:
            if await connection.scalar(_APPEND, sent):
                return True
            del sent["progress"]
            return bool(await connection.scalar(_IS_THERE, sent))

    async def read(
        self, run: str, after: int, limit_frames: int = FRAMES_AT_ONCE
    ) -> tuple[list[Event], Status | None]:
        """Return the next events after number `after`, each with its `seq`, and the run's status.

        Both are of one moment: once the status is an end and no event comes, none ever will. None
        means that the run is gone. It gives at most 8 MB of frames, but at least one frame.
        """
        given = {"run": run, "after": after, "frames": limit_frames, "bytes": MOST_BYTES_READ}
        async with self._at_once.connect() as connection:
            rows = (await connection.execute(_READ, given)).all()
        numbered = (
            {"seq": seq, **event}
            for row in rows
            if row.events is not None
            for seq, event in enumerate(row.events, row.first_seq)
        )
        return [event for event in numbered if event["seq"] > after], (
            rows[0].status if rows else None
        )

    async def last(self, run_ids: Collection[str]) -> dict[str, tuple[int, Status]]:
        """Return the newest number and the status of each run that there is, in one query."""
        query = select(runs.c.id, runs.c.last_seq, runs.c.status).where(runs.c.id.in_(run_ids))
        async with self._at_once.connect() as connection:
            return {row.id: (row.last_seq, row.status) for row in await connection.execute(query)}
