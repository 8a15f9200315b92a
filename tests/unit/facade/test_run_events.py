"""Stored events of a run as events of a loop."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_server import errors
from mcp_server.agents.events import (
    Finished,
    LoopEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnFinished,
)
from mcp_server.agents.work import _stored
from mcp_server.runs.record import status_event
from openai_facade.translate.run_events import loop_event, run_failure

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    "event",
    [
        TextDelta("hi", 1),
        TextDelta("no", 2, "refusal"),
        ToolStarted("c", "kv_get", "{}", 1),
        ToolFinished("c", "kv_get", "not_found: x", True, 1),
        Finished({"role": "assistant", "content": "hi"}, "length", USAGE, [], "turns"),
    ],
)
def test_what_is_stored_comes_back(event: LoopEvent) -> None:
    assert loop_event(_stored(event)) == event


def test_what_a_chat_does_not_show_is_left_out() -> None:
    assert loop_event(_stored(TurnFinished(1, "stop", USAGE))) is None
    assert loop_event(status_event("running")) is None
    assert loop_event({"type": "of a later version"}) is None


CODES = {
    each.code: each.status
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.AppError)
}


@pytest.mark.parametrize("code", CODES)
def test_a_failed_run_fails_with_the_status_of_its_code(code: str) -> None:
    error = {"code": code, "message": "why"}

    failure = run_failure(status_event("failed", error))

    assert (failure.code, failure.status, failure.message) == (code, CODES[code], "why")


@pytest.mark.parametrize("last", [status_event("cancelled"), {}])
def test_a_run_that_ended_otherwise_is_a_conflict(last: dict[str, Any]) -> None:
    assert run_failure(last).status == 409
