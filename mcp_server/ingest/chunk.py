"""Cuts a document's text into chunks that an embedding model can hold, at the best break in reach."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from mcp_server.ingest.tokenise import MARKS, UNSPACED

# The embedded model blurs above about 128 words (measured; DESIGN, section 5). A character of a
# script without spaces counts as three fifths of a word.
WORD_COST = 5
UNSPACED_COST = 3
MAX_COST = 128 * WORD_COST
# Text without words, such as encoded bytes, is bounded by this alone.
MAX_CHARACTERS = 1000

_ATOM = re.compile(
    rf"(?P<space>\s+)|(?P<unspaced>[{UNSPACED}])|(?P<word>(?:[^\W{UNSPACED}]|[{MARKS}]){{1,100}})|.",
    re.DOTALL,
)
# Where a chunk may end, best last.
_WORD_BREAK, _CLAUSE, _SENTENCE, _PARAGRAPH = 1, 2, 3, 4
_SENTENCE_ENDS, _WIDE_SENTENCE_ENDS = ".!?…", "。！？"
_CLAUSE_ENDS, _WIDE_CLAUSE_ENDS = ",;:", "，、；："
_CLOSERS = "\"'”’»)]}」』）】》"
# What belongs to the text before it: no chunk begins with one.
_CLINGING = frozenset(
    _SENTENCE_ENDS + _WIDE_SENTENCE_ENDS + _CLAUSE_ENDS + _WIDE_CLAUSE_ENDS + _CLOSERS + "\u200d"
) | {chr(code) for code in range(0xFE00, 0xFE10)}
_MARK = re.compile(f"[{MARKS}\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]")


@dataclass(frozen=True, slots=True)
class Span:
    """Where a chunk stands in its text: characters `start` to `end`, the end exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Point:
    """A position with the cost and the visible characters before it."""

    position: int = 0
    cost: int = 0
    characters: int = 0

    def overflows(self, since: _Point) -> bool:
        return self.fill(since) > 1

    def fill(self, since: _Point) -> float:
        """Return how much of one chunk lies between `since` and here."""
        return max(
            (self.cost - since.cost) / MAX_COST,
            (self.characters - since.characters) / MAX_CHARACTERS,
        )


def chunk(text: str) -> list[Span]:
    """Return the chunks of a text in order.

    They lie end to end and cover the text, so that their bodies joined are the text again. White
    space belongs to the chunk before it. Each holds at most 128 words or 1,000 visible characters,
    and ends at a paragraph, a sentence, a clause or a word, whichever is the best in its second
    half. A text without a visible character has none.
    """
    if not text or text.isspace():
        return []
    cuts = [0, *_cuts(text), len(text)]
    return [Span(start, end) for start, end in pairwise(cuts)]


def _cuts(text: str) -> Iterator[int]:
    start = here = _Point()
    breaks: dict[int, _Point] = {}
    last, space = "", ""
    for atom in _ATOM.finditer(text):
        piece = atom[0]
        if atom.lastgroup == "space":
            space = piece
            here = _Point(atom.end(), here.cost, here.characters)
            continue
        breaks[_level(last, space, piece)] = here
        after = _Point(atom.end(), here.cost + _cost(atom.lastgroup), here.characters + len(piece))
        while after.overflows(start):
            start = _best(breaks, start, here)
            yield start.position
        if piece not in _CLOSERS or space:
            last = piece
        here, space = after, ""


def _cost(kind: str | None) -> int:
    return {"word": WORD_COST, "unspaced": UNSPACED_COST}.get(kind or "", 0)


def _level(last: str, space: str, piece: str) -> int:
    """Return how good a break there is between `last` and `piece`; below 0: none."""
    if piece in _CLINGING or _MARK.match(piece):
        return -1
    if space.count("\n") > 1:
        return _PARAGRAPH
    if last in _WIDE_SENTENCE_ENDS or (space and last in _SENTENCE_ENDS):
        return _SENTENCE
    if "\n" in space or last in _WIDE_CLAUSE_ENDS or (space and last in _CLAUSE_ENDS):
        return _CLAUSE
    return _WORD_BREAK if space else 0


def _best(breaks: dict[int, _Point], start: _Point, here: _Point) -> _Point:
    """Return where the chunk that began at `start` ends, at or before `here`."""
    usable = {
        level: point
        for level, point in breaks.items()
        if level >= 0 and point.characters > start.characters
    }
    for level in sorted(usable, reverse=True):
        if usable[level].fill(start) >= here.fill(start) / 2:
            return usable[level]
    return max(usable.values(), key=lambda point: point.position, default=here)
