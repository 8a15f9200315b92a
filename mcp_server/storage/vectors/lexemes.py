"""Tokens as PostgreSQL's text search holds them."""

from __future__ import annotations

from collections.abc import Sequence

from mcp_server.storage.vectors import Store

# PostgreSQL keeps positions up to 16,383 and 255 of them for a lexeme.
_LAST_POSITION, _POSITIONS = 16_383, 255


def lexeme_of(store: Store, token: str) -> str:
    """Return a token as a store's own, so that a search never reads the postings of another.

    Five digits of the id are enough: two stores that share them only read a little more.
    """
    return store.id[-5:] + token


def quoted(lexeme: str) -> str:
    """Return a lexeme as it stands in the text form of a tsvector or tsquery."""
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def tsvector(lexemes: Sequence[str]) -> str:
    """Return the text form of a tsvector; positions keep the number of times a lexeme occurs."""
    places: dict[str, list[int]] = {}
    for number, lexeme in enumerate(lexemes, start=1):
        places.setdefault(lexeme, []).append(min(number, _LAST_POSITION))
    return " ".join(
        f"{quoted(lexeme)}:{','.join(map(str, at[:_POSITIONS]))}" for lexeme, at in places.items()
    )
