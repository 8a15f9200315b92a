"""Turns of both sides: wherever they come back in a history, they are whole, once, under the model's ids."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp_server.services.kept_turns import KeptTurn
from openai_facade.translate.mixed_turns import resumed, turns_in, with_kept_ids

TURN, OTHER = "a" * 24, "b" * 24


def function(call_id: str, name: str = "f") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def kept(*ids: str) -> KeptTurn:
    transcript = [
        {"role": "assistant", "content": None, "tool_calls": [function("s"), *map(function, ids)]},
        {"role": "tool", "tool_call_id": "s", "content": "ours"},
    ]
    return KeptTurn(transcript, list(ids))


def seen(turn: str, count: int) -> list[dict[str, Any]]:
    """What a client sends of a turn: the calls that it saw, and its results."""
    calls = with_kept_ids([function(str(index)) for index in range(count)], turn)
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"theirs {index}"}
        for index, call in enumerate(calls)
    ]
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *results]


others = st.lists(
    st.sampled_from(["user", "assistant"]).map(lambda role: {"role": role, "content": "x"}),
    max_size=3,
)


@given(others, others, st.integers(1, 4))
def test_a_turn_is_put_in_its_place(before: list[Any], after: list[Any], count: int) -> None:
    ids = [f"call_{index}" for index in range(count)]
    turn = kept(*ids)
    messages = [*before, *seen(TURN, count), *after]

    told = resumed(messages, {TURN: turn})

    results = [
        {"role": "tool", "tool_call_id": call_id, "content": f"theirs {index}"}
        for index, call_id in enumerate(ids)
    ]
    assert turns_in(messages) == {TURN}
    assert told == [*before, *turn.transcript, *results, *after]


def test_ids_are_no_longer_than_openai_allows() -> None:
    (call,) = with_kept_ids([function("x")], TURN)
    assert len(call["id"]) <= 40


def test_a_turn_that_is_gone_stays_as_the_client_tells_it() -> None:
    messages = [*seen(OTHER, 2), *seen(TURN, 1)]

    told = resumed(messages, {TURN: kept("c")})

    assert told[:3] == messages[:3]
    assert told[3:-1] == kept("c").transcript


def test_a_result_of_no_call_of_the_turn_is_left_alone() -> None:
    message = {"role": "tool", "tool_call_id": f"call_kept_{TURN}_7", "content": "x"}
    assert resumed([message], {TURN: kept("c")}) == [message]


@given(others)
def test_a_chat_without_such_turns_is_not_looked_up(messages: list[Any]) -> None:
    assert turns_in([*messages, {"role": "assistant", "tool_calls": [function("call_1")]}]) == set()
