"""What is promised within a second is looked at more often than that, should no wake-up come."""

from __future__ import annotations

from mcp_server.auth.keys import CACHE_SECONDS
from mcp_server.runs.following import POLL_SECONDS
from mcp_server.runs.intervals import Timing
from mcp_server.services.standing_keeper import DEAD_SECONDS


def test_a_cancelled_run_ends_within_a_second_also_when_its_work_does_not_heed_it() -> None:
    assert Timing().watch + Timing().halt < 1


def test_the_runs_schedules_and_triggers_of_a_dead_key_end_within_a_second() -> None:
    assert max(CACHE_SECONDS, DEAD_SECONDS, Timing().sweep) < 1


def test_who_follows_a_run_hears_of_its_end_within_a_second() -> None:
    assert POLL_SECONDS < 1
