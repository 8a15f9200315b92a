"""Schedules: agents and tools that start by the clock, under the rights of whoever saved them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import TypedDict

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.operation import Operations
from mcp_server.runs.schedules import Firing, fire_due, seed
from mcp_server.runs.standing import Creates
from mcp_server.runs.timing import (
    Every,
    Missed,
    Timing,
    anchored,
    fires_at,
    parse_timing,
    preview,
)
from mcp_server.services.standing_rows import (
    LastRun,
    StandingRows,
    journal_stop,
    last_run,
)
from mcp_server.services.standing_work import WorkStarter, parse_work
from mcp_server.storage.sql.run_tables import schedules
from mcp_server.timestamps import iso, iso_or_none

MOST_PREVIEWED = 100
_MISSED: tuple[Missed, ...] = ("skip", "once", "all")


class ScheduleItem(TypedDict):
    """One schedule; times are ISO 8601 in UTC.

    `stopped` says why it does not go on, None if it does. `next_fire_at` and `last_fire_at` are ticks:
    with jitter, a tick's run begins a little later.
    """

    id: str
    name: str
    timing: dict[str, Any]
    work: dict[str, Any]
    missed: str
    enabled: bool
    stopped: str | None
    next_fire_at: str | None
    last_fire_at: str | None
    last_run: LastRun | None
    subject: str
    version: int
    created_at: str


class Fire(TypedDict):
    """One tick to come, and when its run begins: later than the tick only by the jitter."""

    tick: str
    fires_at: str


class ScheduleService(StandingRows[ScheduleItem]):
    """Every method is one operation on `schedule://NAME`.

    `changed` is called when runs were started or something was journalled; it must not block.
    """

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        queue: Creates,
        starter: WorkStarter,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(operation, control, starter, schedules, "schedule", changed)
        self._firing = Firing(queue, starter, journal_stop)

    async def save(
        self,
        principal: Principal,
        name: str,
        *,
        timing: Mapping[str, Any],
        work: Mapping[str, Any],
        missed: str = "once",
        idempotency_key: str | None = None,
    ) -> ScheduleItem:
        """Write one schedule, whole, and start it with the rights that `principal` has now.

        `timing` is as in `runs.timing.parse_timing`, `work` as in `standing_work.parse_work`. A tick
        that is due and not yet fired is kept if the timing stays as it was.

        Raises:
            InvalidInput: a field does not fit, or the time has passed. Forbidden: `principal` may not
            start the work. LimitExceeded: the tenant has too many schedules.
        """
        uri, given, wanted = self._uri(name), parse_timing(timing), parse_work(work)
        policy = _missed(missed)
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            async with self._control.begin() as tx:
                known = await op.replay(tx)
                if known is not None:
                    return known
                await self._starter.check_save(tx, op, wanted, changes=False)
                before = await self._before(tx, principal, name)
                fixed, following = _first(given, before, await _clock(tx))
                values = {
                    "name": name,
                    "timing": fixed.model_dump(mode="json"),
                    "work": wanted.model_dump(),
                    "missed": policy,
                    "next_fire_at": following,
                }
                return await self._put(tx, op, before, values)

    async def preview(
        self,
        principal: Principal,
        name: str,
        count: int = 5,
        *,
        timing: Mapping[str, Any] | None = None,
    ) -> list[Fire]:
        """Return the next fires of a schedule, or those that it would have with another timing.

        Raises:
            NotFound: there is no such schedule, and no timing is given. InvalidInput: the timing or
            the count does not fit.
        """
        if not 1 <= count <= MOST_PREVIEWED:
            raise InvalidInput(f"count: {count} is not within 1-{MOST_PREVIEWED}", param="count")
        given = None if timing is None else parse_timing(timing)
        async with self._operation(principal, "read", self._uri(name)):
            async with self._control.connect() as tx:
                now = await _clock(tx)
                if given is None:
                    given = parse_timing((await self._load(tx, principal, name)).timing)
        given = anchored(given, now)
        by = seed(principal.tenant, name)
        return [
            Fire(tick=iso(tick), fires_at=iso(fires_at(given, by, tick)))
            for tick in preview(given, now, count)
        ]

    async def fire_due(self, now: datetime | None = None) -> int:
        """Start the runs of every tick that is due and return how many; safe in any number of processes.

        `now` is for trials; without it the database's clock counts.
        """
        started = await fire_due(self._control, self._firing, now)
        if started:
            self._changed()
        return started

    def _item(self, row: Row[Any]) -> ScheduleItem:
        return ScheduleItem(
            id=row.id,
            name=row.name,
            timing=row.timing,
            work=row.work,
            missed=row.missed,
            enabled=row.enabled,
            stopped=row.stopped,
            next_fire_at=iso_or_none(row.next_fire_at),
            last_fire_at=iso_or_none(row.last_fire_at),
            last_run=last_run(row),
            subject=row.subject,
            version=row.version,
            created_at=iso(row.created_at),
        )

    async def _begin_again(self, tx: AsyncConnection, row: Row[Any]) -> dict[str, Any]:
        ticks = parse_timing(row.timing).ticks(await _clock(tx))
        return {"next_fire_at": next(ticks, None)}


def _first(given: Timing, before: Row[Any] | None, now: datetime) -> tuple[Timing, datetime]:
    """Return the timing as it is stored, and the tick that it begins with."""
    old = None if before is None else _stored(before)
    if (
        isinstance(old, Every)
        and isinstance(given, Every)
        and old.start_at is not None
        and old.every_seconds == given.every_seconds
    ):
        given = anchored(given, old.start_at)
    if before is not None and given == old and before.next_fire_at is not None:
        return given, before.next_fire_at
    given = anchored(given, now)
    following = next(given.ticks(now), None)
    if following is None:
        raise InvalidInput(
            f"at: the time has passed, it is {iso(now)} now; give a later one", param="at"
        )
    return given, following


def _stored(row: Row[Any]) -> Timing | None:
    try:
        return parse_timing(row.timing)
    except InvalidInput:  # of an earlier version, or a zone that is no more: it is replaced
        return None


def _missed(value: str) -> Missed:
    for known in _MISSED:
        if value == known:
            return known
    raise InvalidInput(f"missed: {value[:40]!r} is none of {', '.join(_MISSED)}", param="missed")


async def _clock(tx: AsyncConnection) -> datetime:
    now: datetime | None = await tx.scalar(select(func.clock_timestamp()))
    assert now is not None  # noqa: S101  the function never gives null
    return now
