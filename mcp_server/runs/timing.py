"""When a schedule ticks: its timing as data, and what becomes of ticks that were missed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from mcp_server.errors import InvalidInput
from mcp_server.runs.cron import check_expression, check_zone, cron_ticks

Missed: TypeAlias = Literal["skip", "once", "all"]
"""What becomes of late ticks: nothing, one run for them all, or a run for each of the newest 1,000."""

# A tick that is handled sooner than this after its time is on time.
GRACE = timedelta(seconds=60)
MOST_CATCH_UP = 1000
MAX_INTERVAL_SECONDS = 366 * 86_400
MAX_JITTER_SECONDS = 86_400
YEARS = range(1970, 2201)

_MICROSECOND = timedelta(microseconds=1)
_MENDS = {
    "at": "write ISO 8601 with an offset, for example 2027-01-31T09:00:00+01:00",
    "start_at": "write ISO 8601 with an offset, for example 2027-01-31T09:00:00+01:00",
    "every_seconds": f"give a number of seconds of 1-{MAX_INTERVAL_SECONDS}",
    "jitter_seconds": f"give a number of seconds of 0-{MAX_JITTER_SECONDS}",
    "overlap": "use queue or skip",
}


class _Timing(BaseModel):
    """What all timings have.

    `jitter_seconds`: each run waits up to that long after its tick, always the same for one tick.
    `overlap`: whether a tick starts a run while an earlier one of the same schedule still lives.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    jitter_seconds: float = Field(default=0.0, ge=0, le=MAX_JITTER_SECONDS, allow_inf_nan=False)
    overlap: Literal["queue", "skip"] = "queue"


class Cron(_Timing):
    """Five fields of cron, read in an IANA time zone."""

    cron: str
    timezone: str = "UTC"

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        return check_expression(value)

    @field_validator("timezone")
    @classmethod
    def _check_zone(cls, value: str) -> str:
        return check_zone(value)

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """Yield the ticks after a point in time, in order."""
        return cron_ticks(self.cron, self.timezone, after)


class Every(_Timing):
    """A fixed interval, counted from `start_at`; without one, from the moment of the save."""

    every_seconds: float = Field(ge=1, le=MAX_INTERVAL_SECONDS, allow_inf_nan=False)
    start_at: AwareDatetime | None = None

    @field_validator("start_at")
    @classmethod
    def _check_start(cls, value: datetime | None) -> datetime | None:
        return None if value is None else _in_range(value, "start_at")

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """Yield the ticks after a point in time, in order, without end."""
        start = (self.start_at or after).astimezone(UTC)
        interval = timedelta(seconds=self.every_seconds)
        number = max((after - start) // interval + 1, 0)
        while True:
            yield start + number * interval
            number += 1


class Once(_Timing):
    """One point in time."""

    at: AwareDatetime

    @field_validator("at")
    @classmethod
    def _check_at(cls, value: datetime) -> datetime:
        return _in_range(value, "at")

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """Yield the one tick if it is after a point in time."""
        if self.at > after:
            yield self.at.astimezone(UTC)


Timing: TypeAlias = Cron | Every | Once


_KINDS: dict[str, type[Timing]] = {"cron": Cron, "every_seconds": Every, "at": Once}


def parse_timing(given: Mapping[str, Any]) -> Timing:
    """Read a timing: `{cron, timezone}`, `{every_seconds, start_at}` or `{at}`, each with `jitter_seconds` and `overlap`.

    Raises:
        InvalidInput: a field does not fit; names the field, the problem and the mend.
    """
    kinds = [kind for field, kind in _KINDS.items() if field in given]
    if len(kinds) != 1:
        raise InvalidInput(f"timing: give exactly one of {', '.join(_KINDS)}", param="timing")
    try:
        return kinds[0].model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        mend = _MENDS.get(field, f"the fields are {', '.join(kinds[0].model_fields)}")
        raise InvalidInput(f"{field}: {first['msg']}; {mend}", param=field) from error


def anchored(timing: Timing, now: datetime) -> Timing:
    """Give an interval without a start the one that it has from now on."""
    if isinstance(timing, Every) and timing.start_at is None:
        return timing.model_copy(update={"start_at": now})
    return timing


@dataclass(frozen=True, slots=True)
class Decision:
    """The ticks to fire now, oldest first, and the tick to look at next, None if there is none.

    `dropped`: policy `all` left out some, because there were more than it catches up with.
    """

    fire: list[datetime]
    next: datetime | None
    dropped: bool = False


def decide(
    timing: Timing, missed: Missed, first: datetime, now: datetime, *, most: int
) -> Decision:
    """Decide what becomes of the ticks from `first` up to `now`: at most `most` fire now, the others next.

    A tick is late when `GRACE` has passed since. On-time ticks fire each. Of the late ones, `skip` fires
    none, `once` the newest, `all` the newest 1,000.
    """
    late_until = now - GRACE
    late: list[datetime] = []
    if first <= late_until and missed != "skip":
        late = _newest(timing, first, late_until, MOST_CATCH_UP if missed == "all" else 1)
    since = max(first - _MICROSECOND, late_until)
    due = late + _between(timing, first, since, now)
    following = due[most] if len(due) > most else next(timing.ticks(now), None)
    dropped = missed == "all" and bool(late) and late[0] > first
    return Decision(due[:most], following, dropped)


def fires_at(timing: Timing, seed: str, tick: datetime) -> datetime:
    """Return when the run of a tick may begin: its time and a jitter that every process computes alike."""
    digest = hashlib.sha256(f"{seed}/{tick.isoformat()}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return tick + timedelta(seconds=timing.jitter_seconds * share)


def preview(timing: Timing, after: datetime, count: int) -> list[datetime]:
    """Return the next ticks after a point in time, at most `count`."""
    return list(islice(timing.ticks(after), count))


def _between(timing: Timing, first: datetime, after: datetime, until: datetime) -> list[datetime]:
    """Return the ticks in `(after, until]`, of which `first` is one that was computed before."""
    ticks = [first] if after < first <= until else []
    start = max(after, first)
    return ticks + list(takewhile(lambda tick: tick <= until, timing.ticks(start)))


def _newest(timing: Timing, first: datetime, until: datetime, count: int) -> list[datetime]:
    """Return the newest `count` ticks in `[first, until]` without walking through all of them."""
    span = GRACE
    while True:
        start = max(until - span, first - _MICROSECOND)
        ticks = _between(timing, first, start, until)
        if len(ticks) >= count or start < first:
            return ticks[-count:]
        span *= 4


def _in_range(value: datetime, field: str) -> datetime:
    if value.year not in YEARS:
        raise InvalidInput(
            f"{field}: the year {value.year} is not within {YEARS[0]}-{YEARS[-1]}", param=field
        )
    return value.astimezone(UTC)
