"""How good a place to end a chunk is, in prose, in tables and in code."""

from __future__ import annotations

import re

from mcp_server.ingest.parsed import Kind
from mcp_server.ingest.tokenise import MARKS

# Where a chunk may end, best last; below 0: nowhere. Lines of code lie between a clause and a section.
NOWHERE, ANYWHERE, WORD, CLAUSE, SENTENCE, PARAGRAPH, SECTION = -1, 0, 1, 2, 3, 4, 9
_SENTENCE_ENDS, _WIDE_SENTENCE_ENDS = ".!?…", "。！？"
_CLAUSE_ENDS, _WIDE_CLAUSE_ENDS = ",;:", "，、；："
CLOSERS = "\"'”’»)]}」』）】》"
_JOINING = frozenset("\u200d") | {chr(code) for code in range(0xFE00, 0xFE10)}
# What belongs to the text before it: no chunk begins with one.
_CLINGING = _JOINING | frozenset(
    _SENTENCE_ENDS + _WIDE_SENTENCE_ENDS + _CLAUSE_ENDS + _WIDE_CLAUSE_ENDS + CLOSERS
)
_CLINGING_IN_LINES = _JOINING | frozenset(")]},;")
_MARK = re.compile(f"[{MARKS}\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]")


def level(kind: Kind, last: str, space: str, piece: str) -> float:
    """Return how good a break there is between `last` and `piece`, with `space` between them."""
    clinging = _CLINGING if kind == "text" else _CLINGING_IN_LINES
    if piece in clinging or _MARK.match(piece):
        return NOWHERE
    if kind == "text" or "\n" not in space:
        return _in_prose(last, space)
    return PARAGRAPH if kind == "table" else _between_lines(space)


def _in_prose(last: str, space: str) -> int:
    if space.count("\n") > 1:
        return PARAGRAPH
    if last in _WIDE_SENTENCE_ENDS or (space and last in _SENTENCE_ENDS):
        return SENTENCE
    if "\n" in space or last in _WIDE_CLAUSE_ENDS or (space and last in _CLAUSE_ENDS):
        return CLAUSE
    return WORD if space else ANYWHERE


def _between_lines(space: str) -> float:
    """Return the break before a line of code: better the less it is indented, and after an empty line."""
    lines = space.splitlines()
    indentation = len(lines[-1].expandtabs(4)) if space[-1] not in "\r\n" else 0
    return 2 + 3 / (1 + indentation) + (space.count("\n") > 1)
