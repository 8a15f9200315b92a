"""Completions made of chats: the same text in one piece and in many."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openai_facade.translate.text_completions import Texts, chat_of, log_probabilities
from openai_facade.wire.completions import check_completion
from openai_facade.wire.faults import InvalidRequest


def decode(_: str, tokens: list[int]) -> str:
    return "".join(chr(97 + token % 26) for token in tokens)


@given(st.lists(st.text(min_size=1)), st.text(), st.integers(0, 5))
def test_pieces_make_the_whole_text(words: list[str], echo: str, first: int) -> None:
    texts = Texts(first, echo)
    deltas: list[Any] = [{"role": "assistant", "content": ""}, *({"content": w} for w in words)]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    pieces = [texts.piece(choice) for choice in choices]
    pieces.append(texts.piece({"index": 0, "delta": {}, "finish_reason": "tool_calls"}))
    shown = [piece for piece in pieces if piece is not None]
    message = {"content": "".join(words)}
    whole = Texts(first, echo).whole({"index": 0, "message": message, "finish_reason": "stop"})

    assert "".join(piece["text"] for piece in shown) == whole["text"] == echo + "".join(words)
    assert {piece["index"] for piece in shown} == {whole["index"]} == {first}
    assert shown[-1]["finish_reason"] == whole["finish_reason"] == "stop"


def test_tokens_have_their_place_in_the_text() -> None:
    one: dict[str, Any] = {"token": "ab", "logprob": -1.0, "bytes": [97, 98]}
    told = {"content": [{**one, "top_logprobs": [one]}, {**one, "top_logprobs": []}]}

    assert log_probabilities(told, 3) == {
        "tokens": ["ab", "ab"],
        "token_logprobs": [-1.0, -1.0],
        "top_logprobs": [{"ab": -1.0}, {}],
        "text_offset": [3, 5],
    }
    assert log_probabilities(None, 0) is None


def test_a_chat_asks_what_the_completion_asked() -> None:
    body = {"model": "m", "prompt": "x", "logprobs": 2, "echo": True, "top_k": 3, "stream": True}
    assert chat_of(body, "x", "known") == {
        "model": "known",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 16,
        "logprobs": True,
        "top_logprobs": 2,
        "top_k": 3,
    }


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("one", ("one",)),
        (["one", "two"], ("one", "two")),
        ([0, 1], ("ab",)),
        ([[0], [1, 2]], ("a", "bc")),
        (["one", [1]], ("one", "b")),
    ],
)
def test_prompts_come_in_every_form(prompt: Any, texts: tuple[str, ...]) -> None:
    assert check_completion({"model": "m", "prompt": prompt}, decode).prompts == texts


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
NAMES = ["prompt", "suffix", "echo", "logprobs", "best_of", "n", "max_tokens", "stop", "stream"]


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(NAMES), json_values, max_size=3))
def test_a_body_fits_or_its_fault_is_named(more: dict[str, Any]) -> None:
    try:
        asked = check_completion({"model": "m", "prompt": "x", **more}, decode)
    except InvalidRequest as fault:
        assert fault.param
        assert fault.status == 400
    else:
        assert asked.prompts
