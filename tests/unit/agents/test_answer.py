"""Tool calls come out whole, however a stream cuts and mixes their chunks."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.agents.answer import Answer

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, st.text(max_size=8))), max_size=4)


def delta(*tool_calls: dict[str, Any], finish_reason: str | None = None, **texts: str) -> Any:
    found = {"tool_calls": list(tool_calls)} if tool_calls else {}
    return {"choices": [{"index": 0, "delta": found | texts, "finish_reason": finish_reason}]}


def read(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, call.read()) for call in answer.calls]


@given(CALLS, st.data())
def test_calls_come_out_whole_however_their_chunks_are_cut_and_mixed(
    wanted: list[tuple[str, dict[str, str]]], data: st.DataObject
) -> None:
    pending: list[list[dict[str, Any]]] = []
    for index, (name, arguments) in enumerate(wanted):
        text = json.dumps(arguments)
        cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=5)) | {0, len(text)})
        head = {"index": index, "id": f"call_{index}", "type": "function"}
        pieces = [text[a:b] for a, b in pairwise(cuts)]
        tail = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
        pending.append([{**head, "function": {"name": name, "arguments": ""}}, *tail])
    answer = Answer()
    while any(pending):
        place = data.draw(st.sampled_from([i for i, left in enumerate(pending) if left]))
        answer.add(delta(pending[place].pop(0)))
    answer.add(delta(finish_reason="tool_calls" if wanted else "stop"))

    assert read(answer) == wanted
    assert [call.id for call in answer.calls] == [f"call_{i}" for i in range(len(wanted))]


@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": None}], ids=["none", "zero", "null"])
def test_calls_of_an_upstream_without_a_usable_index_are_told_apart_by_id(
    index: dict[str, Any],
) -> None:
    answer = Answer()
    for name in ("first", "second"):
        function = {"name": name, "arguments": f'{{"n": "{name}'}
        answer.add(delta({**index, "id": name, "function": function}))
        answer.add(delta({**index, "function": {"arguments": '"}'}}))
    assert read(answer) == [("first", {"n": "first"}), ("second", {"n": "second"})]


def test_a_repeated_name_is_not_doubled_and_a_missing_id_is_made() -> None:
    answer = Answer()
    answer.add(delta({"index": 0, "function": {"name": "get", "arguments": "{"}}))
    answer.add(delta({"index": 0, "function": {"name": "get", "arguments": "}"}}))
    assert read(answer) == [("get", {})]
    assert answer.calls[0].id.startswith("call_")


def test_a_cut_answer_has_no_calls() -> None:
    answer = Answer()
    answer.add(delta({"index": 0, "id": "a", "function": {"name": "rm", "arguments": "{}"}}))
    answer.add(delta(finish_reason="length"))
    assert (answer.calls, answer.reason) == ([], "length")


@pytest.mark.parametrize(
    ("given", "with_call", "reason"),
    [("stop", True, "tool_calls"), ("tool_calls", False, "stop"), ("content_filter", False, None)],
)
def test_the_finish_reason_agrees_with_the_calls(
    given: str, with_call: bool, reason: str | None
) -> None:
    answer = Answer()
    if with_call:
        answer.add(delta({"index": 0, "id": "a", "function": {"name": "x", "arguments": "{}"}}))
    answer.add(delta(finish_reason=given))
    assert answer.reason == (reason or given)


@pytest.mark.parametrize("text", ["{", "[1]", '"a"', "NaN", '{"a": NaN}', "[" * 100_000])
def test_arguments_that_are_no_object_are_refused_and_never_sent_back(text: str) -> None:
    answer = Answer()
    answer.add(delta({"index": 0, "id": "a", "function": {"name": "x", "arguments": text}}))
    answer.add(delta(finish_reason="tool_calls"))
    with pytest.raises(ValueError, match=r"."):
        answer.calls[0].read()
    assert answer.message()["tool_calls"][0]["function"]["arguments"] == "{}"


def test_text_is_collected_by_field_and_other_choices_are_left_out() -> None:
    answer = Answer()
    added = answer.add(delta(reasoning_content="hm", content="a"))
    answer.add({"choices": [{"index": 1, "delta": {"content": "no"}}]})
    answer.add(delta(content="b", finish_reason="stop"))
    assert added == [("content", "a"), ("reasoning_content", "hm")]
    assert answer.message() == {"role": "assistant", "content": "ab", "reasoning_content": "hm"}
