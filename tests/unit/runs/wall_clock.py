"""An oracle for cron ticks that shares nothing with the product: it watches a clock on the wall, minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def watched(expression: str, timezone: str, after: datetime, until: datetime) -> list[datetime]:
    """Return the ticks in `(after, until]`, seen by looking at every minute of the two days before and of these."""
    allowed = [_allowed(*field) for field in zip(expression.split(), _RANGES, strict=True)]
    minute, hour = expression.split()[:2]
    fixed = minute[0] != "*" and hour[0] != "*"
    begin = after.astimezone(UTC).replace(second=0, microsecond=0) - timedelta(days=2)
    (_, newest), *minutes = _clock(timezone, begin, until)
    ticks: list[datetime] = []
    for moment, wall in minutes:
        if not fixed:
            hit = _matches(wall, allowed)
        else:
            # Every time that the wall shows for the first time now, or that it has just jumped over.
            hit = False
            while newest < wall:
                newest += MINUTE
                hit = _matches(newest, allowed) or hit
        if hit and after < moment <= until:
            ticks.append(moment)
    return ticks


@lru_cache(maxsize=2)  # of many expressions over the same days
def _clock(timezone: str, begin: datetime, until: datetime) -> list[tuple[datetime, datetime]]:
    """Return each minute from `begin` to the first one at or after `until`, and what the wall shows then."""
    zone, moment = ZoneInfo(timezone), begin
    minutes = [(moment, moment.astimezone(zone).replace(tzinfo=None))]
    while moment < until:
        moment += MINUTE
        minutes.append((moment, moment.astimezone(zone).replace(tzinfo=None)))
    return minutes


def _allowed(field: str, limits: tuple[int, int]) -> set[int]:
    allowed: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        low, high = limits if first == "*" else (int(first), int(last or first))
        allowed |= set(range(low, high + 1, int(step or 1)))
    return allowed


def _matches(wall: datetime, allowed: list[set[int]]) -> bool:
    minutes, hours, days, months, weekdays = allowed
    if wall.minute not in minutes or wall.hour not in hours:
        return False
    weekday = wall.isoweekday()
    return (
        wall.day in days
        and wall.month in months
        and (weekday in weekdays or weekday % 7 in weekdays)
    )
