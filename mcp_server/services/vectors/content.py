"""What a vector document may hold, and its text cut into pieces that are ready to be indexed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

from mcp_server.errors import InvalidInput
from mcp_server.ingest.chunk import chunk
from mcp_server.ingest.measure import Measure
from mcp_server.ingest.parsed import Section
from mcp_server.ingest.tokenise import tokenise
from mcp_server.storage.sql.schema import encode_json

MAX_TEXT_BYTES = 2 * 1024 * 1024
MAX_QUERY_CHARACTERS = 32 * 1024
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 16
MAX_LABEL_CHARACTERS = 2048


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk: its text, where it stands in the document, under which heading, and its tokens.

    `before` is the text right before it, by which it is found too.
    """

    body: str
    start: int
    end: int
    tokens: list[str]
    page: int | None = None
    heading: str | None = None
    before: str = ""

    @property
    def lead(self) -> int | None:
        """Where `before` begins, None without it."""
        return self.start - len(self.before) if self.before else None

    @property
    def embedded(self) -> str:
        """What a model embeds: the heading tells what the text is about."""
        # White space says nothing, and a model's limit counts it.
        return " ".join(f"{self.heading or ''} {self.before}{self.body}".split())


@dataclass(frozen=True, slots=True)
class Document:
    """A document about to be written: all of it but its vectors."""

    name: str
    text: str
    metadata: dict[str, Any]
    pieces: Sequence[Piece] = ()
    title: str | None = None
    source: str | None = None
    media_type: str | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the text in UTF-8, in hexadecimal."""
        return sha256(self.text.encode()).hexdigest()


def checked_text(text: str) -> str:
    """Return a document's text.

    Raises:
        InvalidInput: it is empty, over 2 MiB of UTF-8, or holds a character that no text column can.
    """
    if not text or text.isspace():
        raise InvalidInput("text: it is empty; give at least one visible character", param="text")
    storable(text, "text")
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        raise InvalidInput(
            f"text: {size} bytes are more than the {MAX_TEXT_BYTES} that a document may have; "
            "add it in parts, as several documents",
            param="text",
        )
    return text


def checked_query(query: str) -> str:
    """Return the text of a search.

    Raises:
        InvalidInput: it is empty or over 32,768 characters.
    """
    if not query or query.isspace():
        raise InvalidInput("query: it is empty; say what to look for", param="query")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise InvalidInput(
            f"query: {len(query)} characters are more than the {MAX_QUERY_CHARACTERS} allowed; "
            "shorten it to what you are looking for",
            param="query",
        )
    return storable(query, "query")


def checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a document's metadata, a JSON object.

    Raises:
        InvalidInput: it is not JSON, over 16 KiB, nested deeper than 16, or holds a character that
            no JSONB column can.
    """
    if metadata is None:
        return {}
    for text in _texts(metadata):
        storable(text, "metadata")
    size = len(encode_json(metadata))
    if size > MAX_METADATA_BYTES:
        raise InvalidInput(
            f"metadata: {size} bytes of JSON are more than the {MAX_METADATA_BYTES} allowed; "
            "keep what you filter on, and put the rest into the text or an object",
            param="metadata",
        )
    return dict(metadata)


def storable(text: str, param: str) -> str:
    """Refuse what PostgreSQL's text cannot hold.

    Raises:
        InvalidInput: the text holds U+0000 or half of a surrogate pair.
    """
    at = text.find("\0")
    if at < 0 and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            at = error.start
    if at >= 0:
        raise InvalidInput(
            f"{param}: the character U+{ord(text[at]):04X} at {at} cannot be stored; remove it",
            param=param,
        )
    return text


def checked_label(value: str | None, param: str) -> str | None:
    """Return a title, a source or a media type; None stays None.

    Raises:
        InvalidInput: it is over 2,048 characters, or holds a character that no text column can.
    """
    if value is None:
        return None
    if len(value) > MAX_LABEL_CHARACTERS:
        raise InvalidInput(
            f"{param}: {len(value)} characters are more than the {MAX_LABEL_CHARACTERS} allowed",
            param=param,
        )
    return storable(value, param)


def pieces(
    text: str, sections: Sequence[Section] = (), measure: Measure | None = None
) -> list[Piece]:
    """Cut a text into pieces that lie end to end; a pure computation, seconds long for megabytes."""
    spans = chunk(text, sections, measure)
    starts = [span.start for span in spans]
    leads = starts if measure is None else measure.leads(text, starts)
    return [
        _piece(text, span.start, span.end, span.page, span.context or None, lead)
        for span, lead in zip(spans, leads, strict=True)
    ]


def cut_again(text: str, places: Sequence[Sequence[Any]]) -> list[Piece]:
    """Cut a text where it was cut before; `places` are as `places_of` gave them."""
    return [_piece(text, *place) for place in places]


def places_of(pieces: Sequence[Piece]) -> list[list[Any]]:
    """Return where pieces stand, as JSON: start, end, page, heading and lead of each."""
    return [[piece.start, piece.end, piece.page, piece.heading, piece.lead] for piece in pieces]


def _piece(
    text: str,
    start: int,
    end: int,
    page: int | None,
    heading: str | None,
    lead: int | None = None,
) -> Piece:
    before = "" if lead is None else text[lead:start]
    body = text[start:end]
    return Piece(body, start, end, tokenise(before + body), page, heading, before)


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a JSON value, without recursion: it comes from outside."""
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            yield item
            continue
        if isinstance(item, Mapping):
            members = cast("Mapping[object, object]", item)
            inner = [*members.keys(), *members.values()]
        elif isinstance(item, list):
            inner = cast("list[object]", item)
        else:
            continue
        if depth > MAX_METADATA_DEPTH:
            raise InvalidInput(
                f"metadata: it is nested deeper than {MAX_METADATA_DEPTH}; flatten it",
                param="metadata",
            )
        waiting.extend((member, depth + 1) for member in inner)
