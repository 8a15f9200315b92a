"""Lengths of time in the x-ratelimit headers are written as OpenAI writes them."""

from __future__ import annotations

import pytest

from openai_facade.allowance import span


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.0001, "1ms"), (0.012, "12ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (3661, "1h1m1s")],
)
def test_a_length_of_time_is_written_in_its_units(seconds: float, written: str) -> None:
    assert span(seconds) == written
