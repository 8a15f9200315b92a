"""HTML: the main text of a page under its headings, without what no reader sees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from mcp_server.ingest.characters import decode
from mcp_server.ingest.composing import Composer
from mcp_server.ingest.parsed import Parsed
from mcp_server.ingest.source import Source, Unreadable

MEDIA_TYPES = ("text/html", "application/xhtml+xml")
SUFFIXES = (".html", ".htm", ".xhtml")
INLINE_BYTES = 0

# Possessive: it is tried on whatever somebody sends, and nothing in it may be tried twice.
_BEGINNING = re.compile(
    rb"\s*+(?:<!--(?:(?!-->).)*+-->\s*+)*+(?:<!doctype html|<html[\s>])",
    re.IGNORECASE | re.DOTALL,
)
_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]{1,40})", re.IGNORECASE
)
_UNSEEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_LEFT_OUT = frozenset(
    {
        "script",
        "style",
        "noscript",
        "template",
        "head",
        "svg",
        "math",
        "iframe",
        "object",
        "embed",
        "canvas",
    }
) | {"audio", "video", "select", "button", "input", "textarea", "datalist", "dialog"}
# Around the main text, unless the page marks that itself.
_SURROUNDING = frozenset({"nav", "footer", "aside", "header"})
_INLINE = (
    frozenset(
        {
            "a",
            "abbr",
            "acronym",
            "b",
            "bdi",
            "bdo",
            "big",
            "cite",
            "code",
            "data",
            "del",
            "dfn",
            "em",
            "font",
        }
    )
    | frozenset(
        {
            "i",
            "ins",
            "kbd",
            "label",
            "mark",
            "q",
            "rp",
            "rt",
            "ruby",
            "s",
            "samp",
            "small",
            "span",
            "strike",
        }
    )
    | {"strong", "sub", "sup", "time", "tt", "u", "var", "wbr"}
)


def sniff(head: bytes) -> bool:
    """Tell by the document's type or its outermost element."""
    return _BEGINNING.match(head) is not None


def parse(source: Source) -> Parsed:
    """Return the text of `main` or the only `article`, else of the body without what surrounds it.

    Raises:
        Unreadable: it is in no known encoding, or has no text.
    """
    html: Any = import_module("lxml.html")  # its types are not whole
    declared = _CHARSET.search(source.body[:4096])
    charset = source.charset or (declared[1].decode() if declared else None)
    text = decode(Source(source.body, charset, source.name), markup=True)
    parser = html.HTMLParser(
        encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True
    )
    if not text.strip():
        raise Unreadable("it is empty")
    page: Any = html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    main = page.xpath("//main | //*[@role='main']") or page.xpath("//article")
    walk = _Walk(leave_out=_LEFT_OUT if len(main) == 1 else _LEFT_OUT | _SURROUNDING)
    composer = walk.through(main[0] if len(main) == 1 else page)
    if composer.is_empty:
        raise Unreadable(
            "it has no text; a page that a script writes must be stored as it is shown"
        )
    titles = page.xpath("//head/title/text()") or page.xpath("//h1//text()")
    return composer.parsed(MEDIA_TYPES[0], str(titles[0]) if titles else None)


class _Walk:
    """Goes through elements in the order of the text; no recursion, for pages are nested at will."""

    def __init__(self, leave_out: frozenset[str]) -> None:
        self._leave_out = leave_out
        self._composer = Composer()
        self._line: list[str] = []

    def through(self, root: Any) -> Composer:
        waiting: list[Any] = [root]
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                self._line.append(item)
            elif item is None:
                self._break()
            elif not self._element(item):
                waiting += reversed(list(_inside(item)))
        self._break()
        return self._composer

    def _element(self, element: Any) -> bool:
        """Take an element as a whole; False if its inside is to be gone through."""
        if element.tag in self._leave_out or _is_hidden(element):
            return True
        tag = str(element.tag)
        if tag == "br":
            self._line.append("\n")
        elif re.fullmatch("h[1-6]", tag):
            self._break()
            self._composer.heading(int(tag[1]), _text_of(element))
        elif tag == "pre":
            self._break()
            self._composer.block("".join(element.itertext()), "code")
        elif tag == "table" and not element.xpath(".//table"):
            self._break()
            self._composer.block("\n".join(_rows(element)), "table")
        elif tag == "li":
            self._break()
            self._line.append("- ")
            return False
        else:
            return False
        return True

    def _break(self) -> None:
        lines = "".join(self._line).split("\n")
        self._line = []
        self._composer.block("\n".join(" ".join(line.split()) for line in lines))


def _inside(element: Any) -> Iterator[Any]:
    """Yield the texts and elements in an element, and None where a new block begins."""
    block = element.tag not in _INLINE
    if block:
        yield None if element.tag != "li" else ""
    yield _spaced(element.text)
    for child in element:
        yield child
        yield _spaced(child.tail)
    if block:
        yield None


def _spaced(text: str | None) -> str:
    """Return a text whose line breaks mean no more than a space."""
    return re.sub(r"\s+", " ", text or "")


def _text_of(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def _rows(table: Any) -> Iterator[str]:
    for row in table.iter("tr"):
        cells = [
            _text_of(cell) for cell in row if cell.tag in {"td", "th"} and not _is_hidden(cell)
        ]
        if any(cells):
            yield " | ".join(cells)


def _is_hidden(element: Any) -> bool:
    found = element.attrib
    if "hidden" in found or found.get("aria-hidden") == "true":
        return True
    return "style" in found and _UNSEEN.search(found["style"]) is not None
