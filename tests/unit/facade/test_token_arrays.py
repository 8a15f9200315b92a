"""Token arrays as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rs_bpe.bpe import openai as bpe

from openai_facade.translate.token_arrays import count_tokens, text_of_tokens
from openai_facade.wire.faults import InvalidRequest

encoder = bpe.cl100k_base()


@given(st.text())
def test_a_text_survives_its_tokens(text: str) -> None:
    tokens = encoder.encode(text)

    assert text_of_tokens("input", tokens) == text
    assert count_tokens(text) == len(tokens)


@given(st.text(), st.integers(min_value=0, max_value=20))
def test_a_cut_between_tokens_loses_at_most_one_character(text: str, cut: int) -> None:
    tokens = encoder.encode(text)
    front, back = text_of_tokens("input", tokens[:cut]), text_of_tokens("input", tokens[cut:])

    assert text.startswith(front.rstrip("\ufffd"))
    assert text.endswith(back.lstrip("\ufffd"))


def known(token: int) -> bool:
    return 0 <= token < 100_256 or token in {100_257, 100_258, 100_259, 100_260, 100_276}


@given(st.lists(st.one_of(st.integers(-5, 100_300), st.integers())))
def test_any_numbers_are_decoded_or_refused(tokens: list[int]) -> None:
    if all(known(token) for token in tokens):
        assert isinstance(text_of_tokens("input", tokens), str)
        return
    with pytest.raises(InvalidRequest) as caught:
        text_of_tokens("input", tokens)
    assert (caught.value.param, caught.value.wire_code) == ("input", "invalid_value")


@pytest.mark.parametrize("token", [100_256, 100_261, 110_000, 2**32, -1])
def test_ids_that_the_decoder_would_crash_on_never_reach_it(token: int) -> None:
    with pytest.raises(InvalidRequest, match=str(token)):
        text_of_tokens("input", [15339, token])


def test_control_tokens_have_no_text() -> None:
    assert text_of_tokens("input", [100_257, 15339, 100_276]) == "hello"
