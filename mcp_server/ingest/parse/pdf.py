"""PDF: the text of each page, under the headings of the document's outline."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from mcp_server.ingest.composing import Composer
from mcp_server.ingest.parsed import Parsed
from mcp_server.ingest.source import Source, Unreadable

MEDIA_TYPES = ("application/pdf", "application/x-pdf")
SUFFIXES = (".pdf",)
INLINE_BYTES = 0
MOST_PAGES = 5000

# What PDFium gives for a hyphen at which a word is parted between lines.
_PARTED = re.compile("[\x02\ufffe]\r?\n?")


def sniff(head: bytes) -> bool:
    """Tell by the header, which may stand a little after the beginning."""
    return b"%PDF-" in head[:1024]


def parse(source: Source) -> Parsed:
    """Return the pages with text; `page` counts from 1.

    Raises:
        Unreadable: it is encrypted, has too many pages, or no text at all.
    """
    pdfium: Any = import_module("pypdfium2")  # it has no types
    try:
        document: Any = pdfium.PdfDocument(source.body)
        pages = len(document)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise Unreadable("it is encrypted; store it without a password") from error
        raise Unreadable("it is no PDF, or broken") from error
    if pages > MOST_PAGES:
        raise Unreadable(f"it has {pages} pages, more than {MOST_PAGES}; split it")
    outline = _outline(document)
    composer = Composer()
    headings: tuple[str, ...] = ()
    for number in range(pages):
        headings = outline.get(number, headings)
        composer.page(number + 1, headings)
        composer.block(_text(document, number))
    if composer.is_empty:
        raise Unreadable(
            "it has no text: its pages are probably pictures; recognise their text first"
        )
    return composer.parsed(MEDIA_TYPES[0], document.get_metadata_dict().get("Title"))


def _text(document: Any, number: int) -> str:
    page = document[number]
    text: str = page.get_textpage().get_text_range()
    page.close()
    return _PARTED.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def _outline(document: Any) -> dict[int, tuple[str, ...]]:
    """Return the headings under which each page begins that the outline leads to: its first ones."""
    found: dict[int, tuple[str, ...]] = {}
    path: list[str] = []
    for bookmark in document.get_toc(max_depth=6):
        title, place = bookmark.get_title(), bookmark.get_dest()
        path = [*path[: bookmark.level], title]
        number = None if place is None else place.get_index()
        if number is not None:
            found.setdefault(number, tuple(path))
    return found
