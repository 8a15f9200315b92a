"""An oracle for cron ticks that shares nothing with the product: it watches a clock on the wall, minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def watched(expression: str, timezone: str, after: datetime, until: datetime) -> list[datetime]:
    """Return the ticks in `(after, until]`, seen by looking at every minute of the two days before and of these."""
    zone = ZoneInfo(timezone)
    allowed = [_allowed(*field) for field in zip(expression.split(), _RANGES, strict=True)]
    minute, hour = expression.split()[:2]
    fixed = minute[0] != "*" and hour[0] != "*"
    moment = after.astimezone(UTC).replace(second=0, microsecond=0) - timedelta(days=2)
    newest = moment.astimezone(zone).replace(tzinfo=None)
    ticks: list[datetime] = []
    while moment < until:
        moment += MINUTE
        wall = moment.astimezone(zone).replace(tzinfo=None)
        if not fixed:
            hit = _matches(wall, allowed)
        else:
            # Every time that the wall shows for the first time now, or that it has just jumped over.
            new = [newest + i * MINUTE for i in range(1, (wall - newest) // MINUTE + 1)]
            hit = any(_matches(time, allowed) for time in new)
            newest = max(newest, wall)
        if hit and after < moment <= until:
            ticks.append(moment)
    return ticks


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
    weekday = wall.isoweekday()
    return (
        wall.minute in minutes
        and wall.hour in hours
        and wall.day in days
        and wall.month in months
        and (weekday in weekdays or weekday % 7 in weekdays)
    )
