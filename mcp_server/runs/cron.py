"""The ticks of a cron expression in a time zone, over its changes of offset in both directions."""

from __future__ import annotations

import difflib
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

from mcp_server.errors import InvalidInput

FIELDS = 5
MOST_CHARS = 256

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# They mean what the machine is set to, or nothing: two workers need not agree on them.
_NO_PLACES = frozenset({"localtime", "Factory"})


def check_expression(expression: str) -> str:
    """Return a cron expression of five fields that comes true some day.

    Raises:
        InvalidInput: it is not one.
    """
    if len(expression) > MOST_CHARS or len(expression.split()) != FIELDS:
        raise InvalidInput(
            f"cron: {expression[:80]!r} has not the five fields minute, hour, day of month, month and "
            'day of week; write for example "0 9 * * 1-5"',
            param="cron",
        )
    try:
        # Any start does: what comes true at all does so within the 28 years of the calendar's circle.
        first = next(CronSim(expression, datetime(2026, 1, 1)), None)  # noqa: DTZ001  wall time
    except CronSimError as error:
        raise InvalidInput(
            f"cron: {expression!r} does not fit ({error}); the fields are minute 0-59, hour 0-23, "
            "day of month 1-31, month 1-12 and day of week 0-7",
            param="cron",
        ) from error
    if first is None:
        raise InvalidInput(
            f"cron: {expression!r} never comes true; no month has such a day", param="cron"
        )
    return expression


def check_zone(name: str) -> str:
    """Return the name of a time zone.

    Raises:
        InvalidInput: there is no such zone.
    """
    if name not in _zones():
        near = difflib.get_close_matches(name[:80], _zones(), n=1)
        mend = f"did you mean {near[0]!r}?" if near else "use an IANA name such as Europe/Berlin"
        raise InvalidInput(f"timezone: {name[:80]!r} does not exist; {mend}", param="timezone")
    return name


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) - _NO_PLACES


def cron_ticks(expression: str, timezone: str, after: datetime) -> Iterator[datetime]:
    """Yield the ticks after a point in time, in UTC and in order.

    A job at a fixed time (neither its minutes nor its hours begin with `*`) ticks once for each of its
    wall times: one that a change of offset leaves out ticks right after the gap, together with the
    others that the gap swallowed; one that comes twice ticks the first time. Any other job ticks
    whenever the clock on the wall shows one of its times.
    """
    # CronSim walks walls without a zone here: with one, it leaves out ticks after a change that is not
    # a whole hour, and may go back to the first of two equal wall times when it starts in the second.
    zone = zoneinfo.ZoneInfo(timezone)
    minute, hour = expression.split()[:2]
    fixed = not (minute.startswith("*") or hour.startswith("*"))
    # Ticks are whole seconds: one is after a moment if it is after that moment's second.
    start = after.astimezone(UTC).replace(microsecond=0)
    return (_fixed if fixed else _real)(expression, zone, start)


def _fixed(expression: str, zone: zoneinfo.ZoneInfo, last: datetime) -> Iterator[datetime]:
    wall = last.astimezone(zone).replace(tzinfo=None)
    for shown in CronSim(expression, wall):
        tick = shown.replace(tzinfo=zone).astimezone(UTC)
        if tick.astimezone(zone).replace(tzinfo=None) != shown:
            # In a gap: read with the offset after it, the time lies before the change, and the
            # other way round.
            before = shown.replace(tzinfo=zone, fold=1).astimezone(UTC)
            tick = _change(zone, before, tick) or tick
        if tick > last:
            last = tick
            yield tick


def _real(expression: str, zone: zoneinfo.ZoneInfo, last: datetime) -> Iterator[datetime]:
    while True:
        offset = _offset(zone, last)
        for shown in CronSim(expression, (last + offset).replace(tzinfo=None)):
            tick = shown.replace(tzinfo=UTC) - offset
            change = _change(zone, last, tick)
            if change is not None:
                # From here on the wall shows other times; the first of them may be one of ours.
                yield from _at(expression, zone, change)
                last = change
                break
            last = tick
            yield tick
        else:
            return


def _at(expression: str, zone: zoneinfo.ZoneInfo, moment: datetime) -> Iterator[datetime]:
    shown = moment.astimezone(zone).replace(tzinfo=None, fold=0)
    if next(CronSim(expression, shown - _SECOND), None) == shown:
        yield moment


def _change(zone: zoneinfo.ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """Return the first moment in `(after, until]` that has another offset than `after`, to the second.

    Both are whole seconds. No zone changes its offset there and back within one day.
    """
    offset, low = _offset(zone, after), after
    while low < until:
        high = min(low + _DAY, until)
        if _offset(zone, high) != offset:
            return _bisect(zone, offset, low, high)
        low = high
    return None


def _bisect(zone: zoneinfo.ZoneInfo, offset: timedelta, low: datetime, high: datetime) -> datetime:
    while high - low > _SECOND:
        middle = low + (high - low) // _SECOND // 2 * _SECOND
        if _offset(zone, middle) == offset:
            low = middle
        else:
            high = middle
    return high


def _offset(zone: zoneinfo.ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()
