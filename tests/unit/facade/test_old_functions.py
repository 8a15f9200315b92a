"""The old form of calls and today's say the same, there and back."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from openai_facade.translate.old_functions import (
    history,
    is_old,
    old_chunk,
    old_completion,
    with_tools,
)

names = st.sampled_from(["f", "g"])
spoken = st.fixed_dictionaries({"role": st.just("user"), "content": st.text()})
calls = st.builds(
    lambda name, arguments: {
        "role": "assistant",
        "content": None,
        "function_call": {"name": name, "arguments": arguments},
    },
    names,
    st.text(),
)
results = st.builds(
    lambda name, text: {"role": "function", "name": name, "content": text}, names, st.text()
)


@given(st.lists(st.one_of(spoken, calls, results)))
def test_every_result_answers_a_call_that_came_before(messages: list[Any]) -> None:
    told = history(messages)

    assert len(told) == len(messages)
    assert not any("function_call" in each or each["role"] == "function" for each in told)
    open_ids: set[str] = set()
    for message in told:
        for call in message.get("tool_calls") or ():
            assert call["id"] not in open_ids
            open_ids.add(call["id"])
        if message["role"] == "tool":
            open_ids.remove(message["tool_call_id"])


@given(st.lists(spoken))
def test_a_history_without_calls_stays_the_same_object(messages: list[Any]) -> None:
    assert history(messages) is messages


def test_functions_become_tools_that_are_called_one_at_a_time() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "functions": [{"name": "f", "parameters": {"type": "object"}}],
        "function_call": {"name": "f"},
    }

    today = with_tools(body)

    assert is_old(body)
    assert today["tools"] == [{"type": "function", "function": body["functions"][0]}]
    assert today["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert today["parallel_tool_calls"] is False
    assert not {"functions", "function_call"} & today.keys()


def test_an_answer_in_the_old_form_has_one_call() -> None:
    made = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [made, made]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}

    (old,) = old_completion({"choices": [choice]})["choices"]

    assert old["finish_reason"] == "function_call"
    assert old["message"] == {
        "role": "assistant",
        "content": None,
        "function_call": made["function"],
    }


def test_a_chunk_in_the_old_form_holds_pieces_of_the_first_call_only() -> None:
    pieces = [{"index": i, "function": {"arguments": str(i)}} for i in range(2)]
    choice = {"index": 0, "delta": {"tool_calls": pieces}, "finish_reason": None}

    (old,) = old_chunk({"choices": [choice]})["choices"]

    assert old == {
        "index": 0,
        "delta": {"function_call": {"arguments": "0"}},
        "finish_reason": None,
    }
