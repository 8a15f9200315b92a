"""An agent's run as the stream of a response: what broke off stays, what was asked ends it for now, and every reading is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from openai_facade.translate.agent_response import AgentResponse
from openai_facade.translate.response_fold import fold
from openai_facade.translate.response_object import new_response

RUN = "run_" + "a" * 32
REQUEST = {
    "id": "req_" + "b" * 32,
    "kind": "approval",
    "call": {"name": "sign", "arguments": "{}"},
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def status(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "status", "status": name, **more}


def text(said: str, turn: int) -> dict[str, Any]:
    return {"type": "text", "text": said, "turn": turn, "field": "content"}


def started(name: str, call: str, turn: int) -> dict[str, Any]:
    return {"type": "tool_started", "name": name, "call": call, "arguments": "{}", "turn": turn}


def finished(name: str, call: str, turn: int, *, is_error: bool = False) -> dict[str, Any]:
    told = {"type": "tool_finished", "name": name, "call": call, "turn": turn}
    return {**told, "text": "done", "is_error": is_error}


def turn_finished(turn: int, reason: str = "stop") -> dict[str, Any]:
    return {"type": "turn_finished", "turn": turn, "finish_reason": reason}


def message(said: str) -> dict[str, Any]:
    told = {"role": "assistant", "content": said}
    return {
        "type": "message",
        "message": told,
        "finish_reason": "stop",
        "usage": USAGE,
        "stopped": None,
    }


def read(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    body = {"model": "agent/clerk", "background": True}
    response = new_response(body, response="resp_" + "a" * 32, created_at=1)
    told = AgentResponse(RUN, response | {"status": "queued"})
    return [*told.begin(), *(each for event in events for each in told.feed(event, 9))]


def output(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    told = read(events)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert read(events) == told
    response = fold(told)
    assert response is not None
    assert response == told[-1].get("response", response)
    return response["output"]


APPROVED = [
    status("running"),
    turn_finished(1, "tool_calls"),
    status("input_required", request=REQUEST),
    {"type": "input", "request": REQUEST["id"], "answer": {"approved": True}},
    status("queued"),
    status("running"),
    started("sign", "c1", 1),
    finished("sign", "c1", 1),
    text("\n\nSigned.", 2),
    turn_finished(2),
    message("Signed."),
    status("completed"),
]


def test_the_response_ends_where_it_asks_and_goes_on_after_the_answer() -> None:
    asked, made, said = output(APPROVED)
    assert asked["type"] == "mcp_approval_request"
    assert made["approval_request_id"] == asked["id"]
    assert (made["status"], made["output"]) == ("completed", "done")
    assert said["content"][0]["text"] == "Signed."
    kinds = [event["type"] for event in read(APPROVED)]
    assert kinds.count("response.completed") == 2
    assert kinds[-1] == "response.completed"
    *_, last = read(APPROVED)
    assert last["response"]["usage"]["total_tokens"] == 5
    assert last["response"]["completed_at"] == 9


def test_a_turn_that_begins_anew_leaves_what_it_had_said_as_incomplete() -> None:
    cut, whole = output(
        [
            status("running"),
            text("one", 1),
            {"type": "turn_incomplete", "turn": 1},
            text("one two", 1),
            turn_finished(1),
            message("one two"),
            status("completed"),
        ]
    )
    assert (cut["status"], cut["content"][0]["text"]) == ("incomplete", "one")
    assert (whole["status"], whole["content"][0]["text"]) == ("completed", "one two")


@pytest.mark.parametrize("ending", ["failed", "expired", "cancelled"])
def test_a_run_that_does_not_complete_ends_its_stream_with_the_reason(ending: str) -> None:
    error = {"error": {"code": "timeout", "message": "too slow"}} if ending == "failed" else {}
    told = read([status("running"), started("sign", "c1", 1), status(ending, **error)])
    (call,) = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert call["status"] == "incomplete"
    (why,) = [event for event in told if event["type"] == "error"]
    assert why["code"] == ("timeout" if ending == "failed" else ending)
    last = "error" if ending == "cancelled" else "response.failed"
    assert told[-1]["type"] == last


def test_a_question_is_the_call_of_a_function_that_the_client_has() -> None:
    asks = {"id": f"ask_{'b' * 32}", "kind": "question", "message": "Which?", "schema": None}
    told = read([status("running"), text("Hm.", 1), status("input_required", request=asks)])
    call = [event["item"] for event in told if event["type"] == "response.output_item.done"][-1]
    digits = RUN.removeprefix("run_") + "b" * 16
    assert call == {
        "id": f"fc_{digits}",
        "type": "function_call",
        "status": "completed",
        "call_id": f"call_{digits}",
        "name": "ask_person",
        "arguments": '{"message": "Which?"}',
    }
    assert told[-1]["type"] == "response.completed"
