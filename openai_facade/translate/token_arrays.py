"""Token arrays of embedding requests as text, and the count of tokens in a text (cl100k_base)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

from openai_facade.wire.faults import invalid

# cl100k_base: ids of text are 0..100255; these five are control tokens, which have no text.
_TEXT_TOKENS = 100_256
_CONTROL_TOKENS = frozenset({100_257, 100_258, 100_259, 100_260, 100_276})


def text_of_tokens(param: str, tokens: Sequence[int]) -> str:
    """Decode cl100k_base. Clients cut long texts between tokens, so half a character at an end is replaced.

    Raises:
        InvalidRequest: an id that the vocabulary does not have (the decoder would crash on it).
    """
    kept: list[int] = []
    for token in tokens:
        if 0 <= token < _TEXT_TOKENS:
            kept.append(token)
        elif token not in _CONTROL_TOKENS:
            raise invalid(param, f"{token} is not a token of cl100k_base (0 to 100255).")
    raw: bytes = _tokenizer().bpe().decode_tokens(kept)
    return raw.decode("utf-8", "replace")


def count_tokens(text: str) -> int:
    """Count the tokens of a text, as OpenAI's own embedding models would."""
    return int(_tokenizer().count(text))


@cache
def _tokenizer() -> Any:
    bpe: Any = import_module("rs_bpe.bpe")  # takes 20 ms, and carries no types
    return bpe.openai.cl100k_base()
