"""Markdown: its source as it is, cut at headings, with its tables and code told apart."""

from __future__ import annotations

import re
from itertools import accumulate

from mcp_server.ingest.characters import decode
from mcp_server.ingest.parsed import Kind, Parsed, Section
from mcp_server.ingest.source import Source

MEDIA_TYPES = ("text/markdown", "text/x-markdown")
SUFFIXES = (".md", ".markdown", ".mdown")
INLINE_BYTES = 32_768

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+\Z")
_MARKUP = re.compile(r"[*_`~]+|!?\[|\]\([^)]{0,1000}\)|\]")
# What tools keep above the text between two lines of dashes, which would make it a heading.
_FRONT = re.compile(r"\A---[ \t]*\r?\n(?:.*\r?\n){0,200}?---[ \t]*(?:\r?\n|\Z)")
_MOST_HEADING = 200


def sniff(head: bytes) -> bool:
    """Nothing tells it from other text."""
    del head
    return False


def parse(source: Source) -> Parsed:
    """Return the source with a section for each heading, table and piece of code.

    Raises:
        Unreadable: it is no text.
    """
    from markdown_it import MarkdownIt

    text = decode(source)
    markdown = MarkdownIt("commonmark", {"maxNesting": 12}).enable("table")
    markdown.core.ruler.enableOnly(["normalize", "block"])
    starts = [0, *accumulate(len(line[0]) for line in _LINE.finditer(text))]
    composition = _Composition(text)
    tokens = markdown.parse(_FRONT.sub(lambda front: "\n" * front[0].count("\n"), text))
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.level or token.map is None:
            continue
        start, end = (starts[min(line, len(starts) - 1)] for line in token.map)
        if token.type == "heading_open" and following is not None:
            composition.heading(start, int(token.tag[1]), following.content)
        elif token.type in {"fence", "code_block"}:
            composition.apart(start, end, "code")
        elif token.type == "table_open":
            composition.apart(start, end, "table")
    sections = composition.sections()
    return Parsed(text, composition.title, MEDIA_TYPES[0], sections)


class _Composition:
    """The places in a text at which another part begins."""

    def __init__(self, text: str) -> None:
        self._length = len(text)
        self._path: list[tuple[int, str]] = []
        self._begins: list[tuple[int, tuple[str, ...], Kind]] = [(0, (), "text")]
        self.title: str | None = None

    def heading(self, start: int, level: int, content: str) -> None:
        line = " ".join(_MARKUP.sub("", content).split())[:_MOST_HEADING]
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        if line:
            self._path.append((level, line))
        self.title = self.title or (line if level == 1 else None) or None
        self._begin(start, "text")

    def apart(self, start: int, end: int, kind: Kind) -> None:
        self._begin(start, kind)
        self._begin(end, "text")

    def _begin(self, start: int, kind: Kind) -> None:
        if self._begins[-1][0] == start:
            self._begins.pop()
        self._begins.append((start, tuple(heading for _, heading in self._path), kind))

    def sections(self) -> tuple[Section, ...]:
        ends = [*(start for start, _, _ in self._begins[1:]), self._length]
        return tuple(
            Section(start, end, headings, kind=kind)
            for (start, headings, kind), end in zip(self._begins, ends, strict=True)
        )
