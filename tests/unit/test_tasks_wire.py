"""A run's row as a task of the Tasks extension, and its open request as a client's form."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mcp_server.elicitation.forms import Question, elicitation, questions, read_response
from mcp_server.errors import InvalidInput
from mcp_server.extensions.tasks_wire import show_created, show_task
from mcp_server.runs.record import Run, Status
from mcp_server.services.run_results import RunItem, run_item

BEGAN = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
NOW = BEGAN + timedelta(seconds=5)
APPROVAL = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
}


def a_run(status: Status, **more: Any) -> RunItem:
    values: dict[str, Any] = {
        "id": "run_" + "0" * 32,
        "tenant": "default",
        "subject": "owner",
        "key_id": None,
        "grant": frozenset({"run"}),
        "kind": "tool/slow",
        "input": {},
        "created_at": BEGAN,
        "updated_at": NOW,
        "status": status,
        "output": tool_output("done") if status == "completed" else None,
    }
    return run_item(Run(**{**values, **more}))


def a_question(schema: dict[str, Any] | None, kind: str = "question") -> Question:
    return Question("ask_1", "ask_1", None, kind, "?", schema)


def tool_output(text: str, *, is_error: bool = False) -> dict[str, Any]:
    return {"text": text, "structured": None, "is_error": is_error}


STATUSES: list[tuple[Status, str]] = [
    ("queued", "working"),
    ("running", "working"),
    ("completed", "completed"),
    ("failed", "failed"),
    ("cancelled", "cancelled"),
    ("expired", "failed"),
]


@pytest.mark.parametrize(("status", "shown"), STATUSES)
def test_each_status_of_a_run_is_one_of_the_extension(status: Status, shown: str) -> None:
    task = show_task(a_run(status))

    assert task["status"] == shown
    assert task["createdAt"] == "2026-11-22T10:00:00Z"
    assert task["lastUpdatedAt"] == "2026-11-22T10:00:05Z"
    assert ("result" in task) == (shown == "completed")
    assert ("error" in task) == (shown == "failed")
    assert "inputRequests" not in task


def test_a_created_task_carries_no_outcome_even_if_it_has_ended_already() -> None:
    created = show_created(a_run("completed"))

    assert created["resultType"] == "task"
    assert {"result", "error", "inputRequests"}.isdisjoint(created)


def test_a_tools_error_completes_its_task_and_a_lost_run_fails_it() -> None:
    refused = a_run("completed", output=tool_output("not_found: no", is_error=True))
    lost = a_run("failed", error={"code": "unsure", "message": "nobody knows"})

    result = show_task(refused)["result"]
    assert result["isError"] is True
    assert result["content"] == [{"type": "text", "text": "not_found: no"}]
    error = show_task(lost)["error"]
    assert error == {
        "code": -32603,
        "message": "unsure: nobody knows",
        "data": {"code": "unsure"},
    }


def test_an_agent_that_failed_has_the_result_that_its_call_would_have_had() -> None:
    error = {"code": "unavailable", "message": "no model"}
    task = show_task(a_run("failed", kind="agent", agent="a", output="half", error=error))

    assert task["status"] == "completed"
    assert task["statusMessage"] == "no model"
    assert task["result"]["structuredContent"] == {
        "run": task["taskId"],
        "status": "failed",
        "output": "half",
        "error": error,
    }


@pytest.mark.parametrize(
    ("status", "times", "ttl"),
    [
        ("running", {"ttl_seconds": 60.0}, None),
        ("running", {"expires_at": BEGAN + timedelta(seconds=1.5)}, 1500),
        ("completed", {"ended_at": NOW, "purge_at": NOW + timedelta(microseconds=1)}, 5001),
        ("completed", {"ended_at": NOW}, None),
        ("expired", {"ended_at": NOW, "expires_at": BEGAN, "purge_at": BEGAN}, 1),
    ],
)
def test_the_time_to_live_is_a_whole_positive_number_of_milliseconds(
    status: Status, times: dict[str, Any], ttl: int | None
) -> None:
    shown = show_task(a_run(status, **times))["ttlMs"]

    assert shown == ttl
    assert shown is None or type(shown) is int


def test_how_far_a_run_is_stands_in_the_status_message() -> None:
    progress = {"done": 2, "total": 3.5, "message": "rows"}
    assert show_task(a_run("running", progress=progress))["statusMessage"] == "2 of 3.5: rows"


def test_an_open_question_is_a_form_under_a_key_of_its_own() -> None:
    request = {"id": "ask_1", "step": "s", "kind": "approval", "message": "Sure?", "schema": None}
    task = show_task(a_run("input_required", request=request))

    assert task["inputRequests"] == {
        "ask_1": {
            "method": "elicitation/create",
            "params": {"mode": "form", "message": "Sure?", "requestedSchema": APPROVAL},
        }
    }


def test_only_the_parts_of_a_question_that_nobody_answered_are_open() -> None:
    parts = {name: {"message": f"{name}?", "schema": None} for name in ("name", "age")}
    asked = {"id": "ask_1", "kind": "question", "message": "two", "schema": None, "parts": parts}
    run = a_run("input_required", request=asked | {"answers": {"name": "Ada"}})

    assert run["request"] is not None
    (open_question,) = questions(run["request"])
    assert open_question == Question("ask_1/age", "ask_1", "age", "question", "age?", None)
    assert list(show_task(run)["inputRequests"]) == ["ask_1/age"]


NESTED = {"type": "object", "properties": {"at": {"type": "object"}}, "required": ["at"]}
ANSWERS: list[tuple[dict[str, Any] | None, str | None, dict[str, Any], Any]] = [
    (APPROVAL, None, {"approved": True}, {"approved": True}),
    (None, "string", {"answer": "blue"}, "blue"),
    ({"type": "integer", "multipleOf": 2}, "integer", {"answer": 4}, 4),
    ({"enum": ["a", "b"]}, "string", {"answer": "b"}, "b"),
    (NESTED, "string", {"answer": '{"at": {"x": 1}}'}, {"at": {"x": 1}}),
    ({}, "string", {"answer": "[1]"}, [1]),
]


@pytest.mark.parametrize(("schema", "field", "content", "answer"), ANSWERS)
def test_what_a_form_cannot_say_becomes_one_field(
    schema: dict[str, Any] | None, field: str | None, content: dict[str, Any], answer: Any
) -> None:
    question = a_question(schema)
    form = elicitation(question)["params"]["requestedSchema"]

    assert form["type"] == "object"
    if field is not None:
        assert form["properties"]["answer"]["type"] == field
        assert form["required"] == ["answer"]
        assert "multipleOf" not in form["properties"]["answer"]
    response = read_response(question, {"action": "accept", "content": content})
    assert (response.declined, response.answer) == (False, answer)


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_refusal_needs_no_content_and_does_not_approve(action: str) -> None:
    assert read_response(a_question(None), {"action": action}).declined
    refused = read_response(a_question(None, "approval"), {"action": action})
    assert not refused.declined
    assert refused.answer["approved"] is False


@pytest.mark.parametrize(
    "response",
    [
        None,
        "yes",
        {},
        {"ignored": True},
        {"action": ["accept"]},
        {"action": "accept"},
        {"action": "accept", "content": ["x"]},
        {"action": "accept", "content": {"other": 1}},
    ],
)
def test_what_is_no_answer_is_refused_by_the_name_of_its_key(response: Any) -> None:
    with pytest.raises(InvalidInput, match=r"inputResponses\.ask_1"):
        read_response(a_question(None), response)


def test_a_field_of_json_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="JSON"):
        read_response(a_question(NESTED), {"action": "accept", "content": {"answer": "{"}})
