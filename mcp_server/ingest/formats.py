"""Finds the parser for a document: by what it is, by what it was declared as, by its name, in this order."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Protocol, cast

from mcp_server.ingest import parse
from mcp_server.ingest.parsed import Parsed
from mcp_server.ingest.source import (
    MAX_SECTIONS,
    MAX_TEXT_CHARACTERS,
    Source,
    UnknownKind,
    Unreadable,
)

_HEAD = 4096
# Types that say nothing: given by whoever did not know better.
_VAGUE = frozenset(
    {"", "application/octet-stream", "binary/octet-stream", "text/plain", "application/zip"}
)


class Format(Protocol):
    """A module of `ingest.parse`; see there."""

    __name__: str
    MEDIA_TYPES: tuple[str, ...]
    SUFFIXES: tuple[str, ...]
    INLINE_BYTES: int

    def sniff(self, head: bytes) -> bool: ...

    def parse(self, source: Source) -> Parsed: ...


@cache
def formats() -> dict[str, Format]:
    """Return all there are, by name."""
    return {
        module.name: cast("Format", importlib.import_module(f"{parse.__name__}.{module.name}"))
        for module in pkgutil.iter_modules(parse.__path__)
    }


def find(media_type: str, source: Source) -> str:
    """Return the name of the format of a document.

    Raises:
        Unreadable: there is no parser for it; names those that there are.
    """
    known = formats()
    head = source.body[:_HEAD]
    for name, format_ in known.items():
        if format_.sniff(head):
            return name
    if media_type not in _VAGUE:
        for name, format_ in known.items():
            if media_type in format_.MEDIA_TYPES:
                return name
    for name, format_ in known.items():
        if source.suffix in format_.SUFFIXES:
            return name
    if media_type.startswith("text/") or media_type in _VAGUE - {"application/zip"}:
        return "text"
    if media_type.endswith(("+json", "+xml")):
        return "json" if media_type.endswith("json") else "code"
    raise UnknownKind(
        f"{media_type[:80]} is of no kind that can be read ({', '.join(sorted(known))})"
    )


def parsed_as(name: str, source: Source) -> Parsed:
    """Return a document of a format, parsed here and now.

    Raises:
        Unreadable: it cannot be read, is empty, or has more text or parts than a document may.
    """
    parsed = formats()[name].parse(source)
    if not parsed.text.strip():
        raise Unreadable("it is empty")
    if len(parsed.text) > MAX_TEXT_CHARACTERS:
        raise Unreadable(f"its text has more than {MAX_TEXT_CHARACTERS} characters; split it")
    if len(parsed.sections) > MAX_SECTIONS:
        raise Unreadable(f"it has more than {MAX_SECTIONS} parts; split it")
    return parsed
