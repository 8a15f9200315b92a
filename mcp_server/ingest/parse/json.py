"""JSON and JSON Lines: the source as it is, if it is valid, cut where values are nested least."""

from __future__ import annotations

import json

from mcp_server.ingest.characters import decode
from mcp_server.ingest.parsed import Parsed, Section
from mcp_server.ingest.source import Source, Unreadable

MEDIA_TYPES = (
    "application/json",
    "application/x-ndjson",
    "application/jsonl",
    "application/ld+json",
)
SUFFIXES = (".json", ".jsonl", ".ndjson", ".geojson")
INLINE_BYTES = 262_144  # values may take forty times their text


def sniff(head: bytes) -> bool:
    """Nothing tells it from other text before its end."""
    del head
    return False


def parse(source: Source) -> Parsed:
    """Return the source.

    Raises:
        Unreadable: it is no text, no JSON, or nested too deeply.
    """
    text = decode(source)
    by_line = source.suffix in {".jsonl", ".ndjson"}
    values = [line for line in text.splitlines() if line.strip()] if by_line else [text]
    if not any(value.strip() for value in values):
        raise Unreadable("it is empty")
    for number, value in enumerate(values, 1):
        try:
            json.loads(value, parse_int=_kept, parse_float=_kept)
        except RecursionError as error:
            raise Unreadable("it is nested too deeply") from error
        except json.JSONDecodeError as error:
            line = number if by_line else error.lineno
            raise Unreadable(f"it is not JSON at line {line}: {error.msg}") from error
    kind = "table" if by_line else "code"
    return Parsed(text, None, MEDIA_TYPES[0], (Section(0, len(text), kind=kind),))


def _kept(number: str) -> str:
    return number
