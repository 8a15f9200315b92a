"""The events of one run with the time at which each was stored, also after its frames were merged."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Integer, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.runs.record import Event
from mcp_server.storage.sql.schema import JsonText

# One read gives at least one frame and at most so many, or so many bytes of them.
_FRAMES = 200
_BYTES = 4_000_000

_READ = (
    text(
        """
        select first_seq, last_seq, at, times, events from (
            select *, sum(octet_length(events)) over (order by first_seq) - octet_length(events)
                as before
            from (
                select * from run_events where run = :run and last_seq > :after
                order by first_seq limit :frames
            ) next
        ) sized where before < :bytes order by first_seq
        """
    )
    .bindparams(
        bindparam("after", type_=BigInteger()),
        bindparam("frames", _FRAMES, type_=Integer()),
        bindparam("bytes", _BYTES, type_=BigInteger()),
    )
    .columns(
        first_seq=BigInteger(),
        last_seq=BigInteger(),
        at=DateTime(timezone=True),
        times=JsonText(),
        events=JsonText(),
        run=Text(),
    )
)


async def timed_events(
    control: AsyncEngine, run: str
) -> AsyncGenerator[list[tuple[datetime, Event]], None]:
    """Yield the stored events of a run in their order, each with its `seq`, a page at a time.

    The times are those of the database, of the frame that an event came in: an event that ends an item
    is stored at once, a piece of text within 100 ms.
    """
    at_once = control.execution_options(isolation_level="AUTOCOMMIT")
    after = 0
    while True:
        async with at_once.connect() as connection:
            rows = (await connection.execute(_READ, {"run": run, "after": after})).all()
        if not rows:
            return
        yield [
            (_time(seq, row.at, row.times), {"seq": seq, **event})
            for row in rows
            for seq, event in enumerate(row.events, row.first_seq)
        ]
        after = rows[-1].last_seq


def _time(seq: int, at: datetime, times: Sequence[Sequence[Any]] | None) -> datetime:
    """Return the time of the frame, or of the one of which it was merged that held event `seq`.

    It is to the millisecond: a merged frame keeps no more, and a time must not change by that.
    """
    if not times:
        return at.replace(microsecond=at.microsecond // 1000 * 1000)
    place = bisect_right(times, seq, key=lambda pair: pair[0])
    return datetime.fromtimestamp(times[max(place - 1, 0)][1] / 1000, UTC)
