"""Puts a document's text together from its blocks, and keeps where each part lies."""

from __future__ import annotations

import re

from mcp_server.ingest.parsed import Kind, Parsed, Section
from mcp_server.ingest.source import MAX_TEXT_CHARACTERS, Unreadable

_MOST_HEADING = 200
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class Composer:
    """Takes headings, blocks and pages in their order. Blocks are separated by an empty line."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._sections: list[Section] = []
        self._path: list[tuple[int, str]] = []
        self._page: int | None = None

    @property
    def is_empty(self) -> bool:
        return not self._parts

    def page(self, number: int, headings: tuple[str, ...] = ()) -> None:
        """Begin a page, which the document's outline puts under `headings`."""
        self._page = number
        self._path = [(level, heading) for level, heading in enumerate(headings)]

    def heading(self, level: int, text: str) -> None:
        """Begin the part under a heading, 1 being the outermost level."""
        line = _clean(" ".join(text.split()))
        if not line:
            return
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, line[:_MOST_HEADING]))
        self._add(line, "text")

    def block(self, text: str, kind: Kind = "text") -> None:
        """Add a paragraph, a table whose lines are rows, or code; white space around it is dropped."""
        text = _clean(text).strip() if kind == "text" else _clean(text).strip("\n")
        if text.strip():
            self._add(text, kind)

    def _add(self, text: str, kind: Kind) -> None:
        separator = "\n\n" if self._parts else ""
        start = self._length + len(separator)
        self._length = start + len(text)
        if self._length > MAX_TEXT_CHARACTERS:
            raise Unreadable(f"its text has more than {MAX_TEXT_CHARACTERS} characters; split it")
        self._parts += [separator, text]
        headings = tuple(heading for _, heading in self._path)
        last = self._sections[-1] if self._sections else None
        if last and (last.headings, last.page, last.kind) == (headings, self._page, kind):
            start = self._sections.pop().start
        elif last:  # the empty line belongs to the part before it
            self._sections[-1] = Section(last.start, start, last.headings, last.page, last.kind)
        self._sections.append(Section(start, self._length, headings, self._page, kind))

    def parsed(self, media_type: str, title: str | None = None) -> Parsed:
        """Return the document."""
        named = _clean(" ".join((title or "").split()))[:_MOST_HEADING] or None
        return Parsed("".join(self._parts), named, media_type, tuple(self._sections))


def _clean(text: str) -> str:
    """Drop what no database stores: NUL and halves of surrogate pairs, which broken documents hold."""
    return _UNSTORABLE.sub("", text)
