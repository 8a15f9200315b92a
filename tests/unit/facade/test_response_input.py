"""What a client sends as input is refused by name, or becomes messages that a model can read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openai_facade.translate.response_items import kept_items
from openai_facade.translate.response_messages import messages_of_items
from openai_facade.translate.response_object import new_response
from openai_facade.translate.response_search import Sources
from openai_facade.translate.response_shorten import shortened
from openai_facade.wire.faults import InvalidRequest
from openai_facade.wire.response_input import check_input
from openai_facade.wire.responses import check_response
from tests.traffic.check import faults

KINDS = (
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
    "mcp_list_tools",
    "mcp_call",
    "mcp_approval_request",
    "mcp_approval_response",
    "file_search_call",
)
FIELDS = (
    "id",
    "role",
    "content",
    "call_id",
    "name",
    "arguments",
    "input",
    "output",
    "status",
    "summary",
    "tools",
    "server_label",
    "error",
    "approval_request_id",
    "approve",
    "reason",
    "queries",
    "results",
)
PARTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["input_text", "output_text", "refusal", "input_image", "input_file"]
        )
    },
    optional={
        "text": st.sampled_from(["a", None, 1]),
        "refusal": st.just("no"),
        "image_url": st.just("data:image/png;base64,"),
        "file_id": st.sampled_from(["file-1", 7]),
    },
)
VALUES = st.one_of(
    st.sampled_from(["user", "assistant", "a", "{}", "completed"]),
    st.none(),
    st.booleans(),
    st.integers(0, 3),
    st.lists(PARTS, max_size=2),
    st.lists(st.sampled_from(["a", 1]), max_size=2),
    st.dictionaries(st.sampled_from(["type", "content", "text", "message"]), st.just("a")),
)
ITEMS = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(ITEMS, max_size=4))
def test_any_input_is_refused_by_name_or_read(items: list[dict[str, Any]]) -> None:
    try:
        check_input("input", items)
        messages = messages_of_items(kept_items(items), Sources())
    except InvalidRequest as error:
        assert error.status == 400
        return
    for message in messages:
        assert list(faults("/components/schemas/ChatCompletionRequestMessage", message)) == [] or (
            isinstance(message["content"], list)
        )


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "input",
                "tools",
                "tool_choice",
                "text",
                "include",
                "metadata",
                "conversation",
                "reasoning",
                "instructions",
                "stream_options",
                "top_logprobs",
                "truncation",
            ]
        ),
        st.one_of(VALUES, st.lists(st.dictionaries(st.just("type"), VALUES), max_size=2)),
    )
)
def test_any_request_is_refused_by_name_or_fits(body: dict[str, Any]) -> None:
    try:
        check_response({"model": "m", **body})
    except InvalidRequest as error:
        assert error.param is not None


def test_calls_that_stand_together_are_one_message_with_their_results_behind_it() -> None:
    items = kept_items(
        [
            {"role": "user", "content": "go"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "mcp_call", "id": "m1", "server_label": "x", "name": "t", "arguments": "{}"}
            | {"output": "found"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "a"},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "two"},
        ]
    )
    user, calls, *results = messages_of_items(items, Sources())

    assert user == {"role": "user", "content": "go"}
    named = [(call["id"], call["function"]["name"]) for call in calls["tool_calls"]]
    assert named == [("c1", "f"), ("m1", "x__t"), ("c2", "g")]
    assert [(each["tool_call_id"], each["content"]) for each in results] == [
        ("c1", "one"),
        ("m1", "found"),
        ("c2", "two"),
    ]


def test_two_items_of_one_id_are_refused() -> None:
    twice = {"id": "msg_1", "role": "user", "content": "a"}
    with pytest.raises(InvalidRequest, match="Duplicate item found with id msg_1"):
        kept_items([twice, twice])


def test_the_object_has_what_both_documents_require() -> None:
    response = new_response({"model": "m"}, response="resp_1", created_at=1)

    assert list(faults("/components/schemas/Response", response)) == []
    # Open Responses 2026-04-24, ResponseResource: these must be there, and must not be null.
    for name in ("presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "top_p"):
        assert isinstance(response[name], int | float), name
    for name in ("store", "background", "service_tier", "truncation", "tool_choice", "text"):
        assert response[name] is not None, name
    nullable = ("completed_at", "incomplete_details", "previous_response_id", "instructions")
    nullable += ("usage", "max_output_tokens", "max_tool_calls", "safety_identifier", "error")
    for name in (*nullable, "prompt_cache_key", "reasoning"):
        assert name in response, name


def test_what_is_too_long_keeps_its_rules_and_its_last_question() -> None:
    system = {"role": "system", "content": "s"}
    talk = [{"role": role, "content": str(n)} for n in range(4) for role in ("user", "assistant")]

    once = shortened([system, *talk, {"role": "user", "content": "last"}])
    assert once is not None
    assert once[0] == system
    assert once[1]["role"] == "user"
    assert once[-1]["content"] == "last"
    assert len(once) < 10
    assert shortened([system, {"role": "user", "content": "last"}]) is None
