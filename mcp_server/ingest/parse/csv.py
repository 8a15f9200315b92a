"""Comma-separated values: the rows as they are, with the names of their columns beside each chunk."""

from __future__ import annotations

import csv
import re
from itertools import islice

from mcp_server.ingest.characters import decode
from mcp_server.ingest.parsed import Parsed, Section
from mcp_server.ingest.source import Source, Unreadable

MEDIA_TYPES = ("text/csv", "text/tab-separated-values", "application/csv")
SUFFIXES = (".csv", ".tsv")
INLINE_BYTES = 262_144  # its lines are looked at at once

_DELIMITERS = ",;\t|"
_QUOTED = re.compile(r'"[^"]*"')
_NUMBER = re.compile(r"[-+]?[\d.,\s]+%?")


def sniff(head: bytes) -> bool:
    """Nothing tells it from other text."""
    del head
    return False


def parse(source: Source) -> Parsed:
    """Return the rows as one table under the names of its columns, if its first row looks like names.

    Raises:
        Unreadable: it is no text, or empty.
    """
    text = decode(source)
    lines = [line for line in islice(text.splitlines(), 50) if line.strip()]
    if not lines:
        raise Unreadable("it is empty")
    delimiter = max(_DELIMITERS, key=_QUOTED.sub("", lines[0]).count)
    try:
        columns = next(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise Unreadable(f"its first row cannot be read: {error}") from error
    names = [" ".join(column.split()) for column in columns]
    named = all(names) and not any(_NUMBER.fullmatch(name) for name in names)
    headings = (", ".join(names),) if named else ()
    return Parsed(text, None, MEDIA_TYPES[0], (Section(0, len(text), headings, kind="table"),))
