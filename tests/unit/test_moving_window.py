"""The moving window of one process counts as the `limits` library does, and keeps nothing of those who are gone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from mcp_server.moving_window import MovingWindows

# No two requests are a whole window apart: at that very moment the library holds its two questions differently.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]), st.integers(0, 9).map(lambda tenths: tenths / 10 + 0.001)
    ),
    max_size=60,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(rate=st.sampled_from(["1/second", "3/second", "5/2 seconds"]), steps=STEPS)
def test_it_counts_as_the_library_does(rate: str, steps: list[tuple[str, float]]) -> None:
    item, clock = parse(rate), Clock()
    own = MovingWindows(clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", clock)
        theirs = MovingWindowRateLimiter(MemoryStorage())
        for caller, pause in steps:
            clock.now += pause
            counted = theirs.hit(item, caller)
            stats = theirs.get_window_stats(item, caller)
            window = own.hit(item, caller)
            assert (window.counted, window.remaining) == (counted, stats.remaining)
            assert window.reset == pytest.approx(stats.reset_time - clock.now)


def test_rates_of_one_caller_are_counted_apart() -> None:
    windows = MovingWindows(Clock())
    assert windows.hit(parse("1/second"), "ann").counted
    assert windows.hit(parse("1/minute"), "ann").counted
    assert not windows.hit(parse("1/minute"), "ann").counted


def test_nothing_is_kept_of_callers_who_are_gone() -> None:
    clock = Clock()
    windows, item = MovingWindows(clock), parse("5/second")
    for number in range(100):
        windows.hit(item, f"caller {number}")
    windows.hit(parse("5/day"), "of the day")
    assert len(windows) == 101
    clock.now += 2
    for _ in range(110):
        windows.hit(item, "who stays")
    assert len(windows) == 2
