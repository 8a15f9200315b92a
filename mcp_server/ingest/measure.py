"""How much of a chunk a text fills: in words for a model that blurs long texts, or in tokens where they are promised."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import accumulate
from typing import Any, Protocol

# Given what an atom of text is (a word, an unspaced character, space or None) and where it stands
# (from, to), return what it costs.
Cost = Callable[[str | None, int, int], float]

LEAST_TOKENS, MOST_TOKENS = 64, 8192
# A part of a text may be more tokens than it was within the whole: its ends are cut anew.
_ENDS = 3
_MOST_ENDS = 24


class Measure(Protocol):
    """What a chunk may hold: a cost and a number of visible characters."""

    @property
    def most_cost(self) -> float: ...
    @property
    def most_characters(self) -> float: ...
    @property
    def most_word(self) -> int:
        """How many characters of a word are never parted, whatever they cost."""
        ...

    def over(self, text: str) -> Cost:
        """Return what each part of a text costs."""
        ...

    def stricter(self, bodies: Iterable[str]) -> Measure | None:
        """Return the measure to cut by instead if one of the chunks is too much by itself, None if none is."""
        ...

    def leads(self, text: str, starts: Sequence[int]) -> list[int]:
        """Return where what each chunk is found by begins: at its start, or before it."""
        ...


@dataclass(frozen=True, slots=True)
class Words:
    """At most 128 words: above that the embedded model blurs (measured; DESIGN, section 5).

    A character of a script without spaces counts as three fifths of a word. Text without words, such as
    encoded bytes, is bounded by its characters alone.
    """

    most_cost: float = 128 * 5
    most_characters: float = 1000
    most_word: int = 100

    def over(self, text: str) -> Cost:
        """Return the costs, which need no look at the text: they go by its atoms."""
        del text
        return _by_kind

    def stricter(self, bodies: Iterable[str]) -> Measure | None:
        """Return None: words are the same alone."""
        del bodies
        return None

    def leads(self, text: str, starts: Sequence[int]) -> list[int]:
        """Return the starts: these chunks do not overlap."""
        del text
        return list(starts)


@dataclass(frozen=True, slots=True)
class Tokens:
    """At most `most` tokens of o200k_base, the vocabulary of OpenAI's models.

    `overlap` of them are those before the chunk: it is found by them too.
    """

    most: int
    overlap: int = 0
    ends: int = _ENDS
    most_characters: float = float("inf")
    most_word: int = 16  # at four tokens a character they fit into the smallest chunk

    @property
    def most_cost(self) -> float:
        return self.most - self.overlap - self.ends

    def over(self, text: str) -> Cost:
        """Return the costs: the tokens that begin in a part of the text."""
        starts = _token_starts(text)

        def begun(kind: str | None, start: int, end: int) -> float:
            del kind
            return bisect_left(starts, end) - bisect_left(starts, start)

        return begun

    def stricter(self, bodies: Iterable[str]) -> Measure | None:
        """Return one that leaves more room for ends that are cut anew, as rare scripts need."""
        most = self.most - self.overlap
        if self.ends >= _MOST_ENDS or all(count_tokens(body) <= most for body in bodies):
            return None
        return Tokens(self.most, self.overlap, 2 * self.ends)

    def leads(self, text: str, starts: Sequence[int]) -> list[int]:
        """Return where what a chunk is found by begins, for each place at which one starts."""
        if not self.overlap:
            return list(starts)
        tokens = _token_starts(text)
        return [tokens[max(0, bisect_left(tokens, start) - self.overlap)] for start in starts]


def _by_kind(kind: str | None, start: int, end: int) -> float:
    del start, end
    return {"word": 5, "unspaced": 3}.get(kind or "", 0)


def count_tokens(text: str) -> int:
    """Count the tokens of a text in o200k_base."""
    return int(_o200k().count(text))


def _token_starts(text: str) -> list[int]:
    """Return the character at which each token begins; several may begin within one character."""
    # Half a surrogate pair has no UTF-8 form; what replaces it is as long in characters.
    tokens = _o200k().encode(text.encode("utf-8", "replace").decode())
    lengths = (_characters_begun(token) for token in tokens)
    return [0, *accumulate(lengths)][: len(tokens)]


@cache
def _characters_begun(token: int) -> int:
    raw: bytes = _o200k().bpe().decode_tokens([token])
    return sum(byte & 0xC0 != 0x80 for byte in raw)


@cache
def _o200k() -> Any:
    bpe: Any = import_module("rs_bpe.bpe")  # takes half a second, and carries no types
    return bpe.openai.o200k_base()
