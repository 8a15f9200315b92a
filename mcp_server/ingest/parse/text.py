"""Plain text in any common encoding, and all that is declared as some text that has no parser of its own."""

from __future__ import annotations

from mcp_server.ingest.characters import decode
from mcp_server.ingest.parsed import Parsed
from mcp_server.ingest.source import Source, Unreadable

MEDIA_TYPES = ("text/plain",)
SUFFIXES = (".txt", ".text", ".log", ".rst", ".adoc", ".org", ".tex", ".srt", ".vtt")
INLINE_BYTES = 1_048_576  # decoding more would hold the server up


def sniff(head: bytes) -> bool:
    """Nothing tells it: it is what is left."""
    del head
    return False


def parse(source: Source) -> Parsed:
    """Return the text.

    Raises:
        Unreadable: it is no text, or empty.
    """
    text = decode(source)
    if not text.strip():
        raise Unreadable("it is empty")
    return Parsed(text)
