"""Cuts a document's text into chunks that an embedding model can hold, at the best break in reach."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from mcp_server.ingest.breaks import CLOSERS, SECTION, level
from mcp_server.ingest.measure import Measure, Words
from mcp_server.ingest.parsed import Section
from mcp_server.ingest.tokenise import MARKS, UNSPACED

# What fills less of a chunk goes on into the next heading's part: a heading with no text of its own.
_LEAST_FILL = 0.1
# How much of the headings stands before a chunk when it is embedded: its own words must prevail.
MAX_CONTEXT_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Span:
    """Where a chunk stands in its text: characters `start` to `end`, the end exclusive.

    `headings` and `page` are those at its beginning.
    """

    start: int
    end: int
    headings: tuple[str, ...] = ()
    page: int | None = None

    @property
    def context(self) -> str:
        """The headings in one line, cut from the outermost on; empty without any."""
        line = " > ".join(" ".join(heading.split()) for heading in self.headings)
        return line[-MAX_CONTEXT_CHARACTERS:]


@dataclass(frozen=True, slots=True)
class _Point:
    """A position with the cost and the visible characters before it."""

    position: int = 0
    cost: float = 0
    characters: int = 0

    def fill(self, since: _Point, measure: Measure) -> float:
        """Return how much of one chunk lies between `since` and here."""
        return max(
            (self.cost - since.cost) / measure.most_cost,
            (self.characters - since.characters) / measure.most_characters,
        )


def chunk(
    text: str, sections: Sequence[Section] = (), measure: Measure | None = None
) -> list[Span]:
    """Return the chunks of a text in order.

    They lie end to end and cover the text, so that their bodies joined are the text again. White
    space belongs to the chunk before it. Each holds what `measure` allows, by default 128 words or
    1,000 visible characters. It ends with its page or table, and with its heading's part unless that is
    very short; else at a paragraph, a sentence, a clause or a word, whichever is the best in its
    second half: in tables at a row, in code at the line that is indented least. A text without a
    visible character has none.
    """
    if not text or text.isspace():
        return []
    parts = sections or [Section(0, len(text))]
    allowed = measure or Words()
    cuts = [0, *_Cutter(text, parts, allowed).cuts(), len(text)]
    stricter = allowed.stricter(text[start:end] for start, end in pairwise(cuts))
    if stricter is not None:
        return chunk(text, sections, stricter)
    ends = [part.end for part in parts]
    return [_span(text, parts, ends, start, end) for start, end in pairwise(cuts)]


@cache
def _atoms(most_word: int) -> re.Pattern[str]:
    word = rf"(?:[^\W{UNSPACED}]|[{MARKS}]){{1,{most_word}}}"
    return re.compile(rf"(?P<space>\s+)|(?P<unspaced>[{UNSPACED}])|(?P<word>{word})|.", re.DOTALL)


class _Cutter:
    """One walk over a text."""

    def __init__(self, text: str, sections: Sequence[Section], measure: Measure) -> None:
        self._text = text
        self._sections = sections
        self._measure = measure

    def cuts(self) -> Iterator[int]:
        """Yield where chunks end, but for the last."""
        measure, cost = self._measure, self._measure.over(self._text)
        start = here = _Point()
        breaks: dict[float, _Point] = {}
        last, space = "", ""
        sections = iter(self._sections)
        section = next(sections)
        for atom in _atoms(measure.most_word).finditer(self._text):
            piece = atom[0]
            price = here.cost + cost(atom.lastgroup, atom.start(), atom.end())
            if atom.lastgroup == "space":
                space = piece
                here = _Point(atom.end(), price, here.characters)
                continue
            before, section = section, _at(section, sections, atom.start())
            border = _border(before, section) if here.characters else 0
            if border and (border > 1 or here.fill(start, measure) >= _LEAST_FILL):
                yield here.position
                start, breaks = here, {}
            breaks[SECTION if border else level(section.kind, last, space, piece)] = here
            after = _Point(atom.end(), price, here.characters + len(piece))
            # A single atom over the measure stands alone.
            while here.characters > start.characters and after.fill(start, measure) > 1:
                start = _best(breaks, start, here, measure)
                yield start.position
            if piece not in CLOSERS or space:
                last = piece
            here, space = after, ""


def _at(section: Section, sections: Iterator[Section], position: int) -> Section:
    """Return the section that holds a position at or after `section`."""
    while section.end <= position:
        section = next(sections, None) or Section(section.end, position + 1)
    return section


def _border(before: Section, after: Section) -> int:
    """Return 2 where a chunk must end, 1 where it should, 0 where nothing ends."""
    if before is after:
        return 0
    if (before.page, before.kind) != (after.page, after.kind):
        return 2
    return int(before.headings != after.headings)


def _best(breaks: dict[float, _Point], start: _Point, here: _Point, measure: Measure) -> _Point:
    """Return where the chunk that began at `start` ends, at or before `here`."""
    usable = {
        good: point
        for good, point in breaks.items()
        if good >= 0 and point.characters > start.characters
    }
    for good in sorted(usable, reverse=True):
        if usable[good].fill(start, measure) >= here.fill(start, measure) / 2:
            return usable[good]
    return max(usable.values(), key=lambda point: point.position, default=here)


def _span(
    text: str, sections: Sequence[Section], ends: Sequence[int], start: int, end: int
) -> Span:
    visible = start + len(text[start:end]) - len(text[start:end].lstrip())
    holding = sections[min(bisect_right(ends, visible), len(sections) - 1)]
    return Span(start, end, holding.headings, holding.page)
