"""Timing: ticks over changes of offset, jitter, late ticks, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mcp_server.errors import InvalidInput
from mcp_server.runs.cron import cron_ticks
from mcp_server.runs.timing import (
    GRACE,
    MOST_CATCH_UP,
    Missed,
    anchored,
    decide,
    fires_at,
    parse_timing,
    preview,
)
from tests.unit.runs.wall_clock import watched

NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

FIXED = (
    "30 2 * * *",
    "0 2 * * *",
    "0,30 2 * * *",
    "15 1-3 * * *",
    "5,45 1,2,3 * * 0",
    "30 0 * * *",
)
REAL = (
    "*/15 * * * *",
    "15 * * * *",
    "0 */2 * * *",
    "*/20 2 * * *",
    "*/15 5 * * *",
    "* 0-4 * * 0,6",
)
# The changes of offset in 2026 and 2027, both ways, of very different kinds.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour
    "Africa/Casablanca",  # back for Ramadan
    "America/Santiago",  # at midnight
    "Africa/Cairo",  # at midnight
    "America/Havana",
    "Europe/Dublin",
    "Asia/Kolkata",  # never
)


def changes(timezone: str) -> list[datetime]:
    """Return the moments at which the zone's offset is another than an hour before."""
    zone, moment = ZoneInfo(timezone), datetime(2026, 1, 1, tzinfo=UTC)
    found: list[datetime] = []
    while moment.year < 2028:
        later = moment + timedelta(hours=1)
        if later.astimezone(zone).utcoffset() != moment.astimezone(zone).utcoffset():
            found.append(later)
        moment = later
    return found or [datetime(2026, 3, 29, 1, tzinfo=UTC)]


def until(end: datetime, ticks: Iterator[datetime]) -> list[datetime]:
    return list(takewhile(lambda tick: tick <= end, ticks))


@pytest.mark.parametrize("timezone", ZONES)
def test_ticks_are_those_of_a_watched_wall_clock_over_every_change(timezone: str) -> None:
    compared = 0
    for change in changes(timezone):
        start, end = change - timedelta(days=2), change + timedelta(days=2)
        for expression in FIXED + REAL:
            wanted = watched(expression, timezone, start, end)
            given = until(end, cron_ticks(expression, timezone, start))
            assert given == wanted, (expression, change)
            compared += len(wanted)
    print(f"{timezone}: {len(changes(timezone))} changes, {compared} ticks compared")
    assert compared > 100


@pytest.mark.parametrize("timezone", ZONES[:6])
def test_going_on_from_any_moment_gives_the_same_ticks(timezone: str) -> None:
    """A process that starts, or computes the next tick, in the middle of a change sees no other ticks."""
    for change in changes(timezone)[:3]:
        for expression in FIXED + REAL:
            end = change + timedelta(hours=30)
            every = watched(expression, timezone, change - timedelta(hours=5), end)
            for minutes in range(-240, 240, 7):
                moment = change + timedelta(minutes=minutes, seconds=minutes % 60, milliseconds=250)
                given = next(cron_ticks(expression, timezone, moment))
                later = [tick for tick in every if tick > moment]
                if later:
                    assert given == later[0], (expression, moment)


def test_a_fixed_time_in_the_gap_ticks_right_after_it_and_a_doubled_one_once() -> None:
    gap = cron_ticks("30 2 * * *", "Europe/Berlin", datetime(2027, 3, 27, 12, tzinfo=UTC))
    assert next(gap) == datetime(2027, 3, 28, 1, tzinfo=UTC)  # 03:00, the first there is
    assert next(gap) == datetime(2027, 3, 29, 0, 30, tzinfo=UTC)
    fold = cron_ticks("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC))
    assert next(fold) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 02:30 of the summer
    assert next(fold) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_an_interval_keeps_its_phase_and_never_drifts() -> None:
    timing = parse_timing({"every_seconds": 0.1 + 0.9 + 0.1, "start_at": "2026-01-01T00:00:00Z"})
    ticks = preview(timing, NOW, 3)
    assert ticks[0] > NOW >= ticks[0] - timedelta(seconds=1.1)
    assert {late - early for early, late in pairwise(ticks)} == {timedelta(seconds=1.1)}
    assert (ticks[0] - datetime(2026, 1, 1, tzinfo=UTC)) % timedelta(seconds=1.1) == timedelta()


def test_an_interval_begins_at_its_start_or_one_interval_after_the_save() -> None:
    later = parse_timing({"every_seconds": 60, "start_at": "2026-06-02T00:00:00+02:00"})
    assert preview(later, NOW, 1) == [datetime(2026, 6, 1, 22, tzinfo=UTC)]
    assert preview(anchored(parse_timing({"every_seconds": 60}), NOW), NOW, 1) == [NOW + MINUTE]


def test_a_single_time_ticks_once() -> None:
    timing = parse_timing({"at": "2026-06-01T15:00:00+02:00"})
    assert preview(timing, NOW, 5) == [datetime(2026, 6, 1, 13, tzinfo=UTC)]
    assert preview(timing, NOW + timedelta(hours=1), 5) == []


def test_jitter_is_the_same_everywhere_and_spread_over_its_range() -> None:
    timing = parse_timing({"every_seconds": 60, "jitter_seconds": 30})
    ticks = preview(anchored(timing, NOW), NOW, 500)
    waits = [(fires_at(timing, "t/a", tick) - tick).total_seconds() for tick in ticks]
    assert waits == [(fires_at(timing, "t/a", tick) - tick).total_seconds() for tick in ticks]
    assert min(waits) >= 0
    assert max(waits) < 30
    assert min(waits) < 3
    assert max(waits) > 27
    assert fires_at(timing, "t/b", ticks[0]) != fires_at(timing, "t/a", ticks[0])
    without = parse_timing({"every_seconds": 60})
    assert fires_at(without, "t/a", ticks[0]) == ticks[0]


def decided(missed: Missed, first: datetime, now: datetime, most: int = 10**6) -> Any:
    return decide(parse_timing({"cron": "* * * * *"}), missed, first, now, most=most)


@pytest.mark.parametrize(
    ("missed", "fired"), [("skip", [10]), ("once", [9, 10]), ("all", list(range(1, 11)))]
)
def test_after_an_outage_late_ticks_are_treated_as_the_policy_says(
    missed: Missed, fired: list[int]
) -> None:
    zero = NOW.replace(second=0)
    decision = decided(missed, zero + MINUTE, zero + timedelta(minutes=10, seconds=20))
    assert decision.fire == [zero + number * MINUTE for number in fired]
    assert decision.next == zero + timedelta(minutes=11)
    assert not decision.dropped


@pytest.mark.parametrize("missed", ["skip", "once", "all"])
def test_a_tick_within_the_grace_is_on_time(missed: Missed) -> None:
    first = NOW.replace(second=0)
    almost = decided(missed, first, first + GRACE - timedelta(milliseconds=1))
    assert almost.fire == [first]
    assert decided(missed, first, first).fire == [first]


def test_catching_up_has_a_bound_and_says_so() -> None:
    zero = NOW.replace(second=0)
    now = zero + timedelta(days=300)
    decision = decided("all", zero, now)
    assert decision.fire == [now - number * MINUTE for number in range(MOST_CATCH_UP, -1, -1)]
    assert decision.dropped
    assert decision.next == now + MINUTE


def test_a_long_catch_up_goes_on_where_it_stopped() -> None:
    zero = NOW.replace(second=0)
    now, fired = zero + timedelta(hours=10), list[datetime]()
    following: datetime | None = zero
    while following is not None and following <= now:
        decision = decided("all", following, now, most=100)
        assert len(decision.fire) <= 100
        fired += decision.fire
        following = decision.next
    assert fired == [zero + number * MINUTE for number in range(601)]
    assert following == now + MINUTE


def test_a_single_time_that_was_missed_is_fired_late_unless_it_is_skipped() -> None:
    timing = parse_timing({"at": NOW.isoformat()})
    late = NOW + timedelta(days=3)
    for missed, fired in (("skip", []), ("once", [NOW]), ("all", [NOW])):
        decision = decide(timing, missed, NOW, late, most=100)  # type: ignore[arg-type]
        assert (decision.fire, decision.next) == (fired, None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "timing: give exactly one of cron, every_seconds, at"),
        ({"cron": "* * * * *", "at": "2030-01-01T00:00:00Z"}, "timing: give exactly one of"),
        ({"cron": "* * * *"}, r"cron: '.*' has not the five fields"),
        ({"cron": "* * * * * *"}, "has not the five fields"),
        ({"cron": "61 * * * *"}, r"cron: .*\(Bad minute\); the fields are"),
        ({"cron": "*/0 * * * *"}, "Bad minute"),
        ({"cron": "0 0 30 2 *"}, "Bad day-of-month"),
        ({"cron": "1," * 300 + "1 * * * *"}, "has not the five fields"),
        ({"cron": "* * * * *", "timezone": "Europe/Berlim"}, "did you mean 'Europe/Berlin'"),
        ({"cron": "* * * * *", "timezone": "../../etc/passwd"}, "timezone: .* does not exist"),
        ({"cron": "* * * * *", "timezone": "Europe"}, "timezone: 'Europe' does not exist"),
        ({"cron": "* * * * *", "timezone": "localtime"}, "timezone: 'localtime' does not exist"),
        ({"cron": "* * * * *", "timezone": "x\0" * 5000}, "timezone: .* does not exist"),
        ({"cron": 5}, "cron: .*valid string"),
        ({"every_seconds": 0.5}, "every_seconds: .*; give a number of seconds of 1-"),
        ({"every_seconds": float("nan")}, "every_seconds: "),
        ({"every_seconds": float("inf")}, "every_seconds: "),
        ({"every_seconds": 60, "start_at": "2026-01-01T00:00:00"}, "start_at: .*with an offset"),
        ({"every_seconds": 60, "start_at": "0001-01-01T00:00:00+14:00"}, "start_at: the year 1 "),
        ({"at": "tomorrow"}, "at: .*; write ISO 8601 with an offset"),
        ({"at": "9999-12-31T23:59:59-14:00"}, "at: the year 9999"),
        ({"at": "2030-01-01T00:00:00Z", "jitter_seconds": -1}, "jitter_seconds: .*0-86400"),
        ({"at": "2030-01-01T00:00:00Z", "jitter_seconds": float("nan")}, "jitter_seconds: "),
        ({"every_seconds": 60, "overlap": "both"}, "overlap: .*; use queue or skip"),
        ({"every_seconds": 60, "days": 3}, "days: .*; the fields are jitter_seconds"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_mend(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        parse_timing(given)


@pytest.mark.parametrize(
    "given",
    [
        {"cron": "0 9 * * 1-5", "timezone": "Europe/Berlin"},
        {"every_seconds": 900, "start_at": "2026-01-01T00:00:00Z", "jitter_seconds": 5},
        {"at": "2030-01-01T00:00:00Z", "overlap": "skip"},
    ],
)
def test_a_timing_comes_back_from_its_json(given: dict[str, Any]) -> None:
    timing = parse_timing(given)
    assert parse_timing(timing.model_dump(mode="json")) == timing
