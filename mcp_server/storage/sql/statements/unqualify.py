"""Putting the real schema in place of `main.` in a statement's text, proved against its parse tree."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any, cast

from pglast import ast
from pglast.parser import ParseError, parse_sql, scan

from mcp_server.errors import InvalidInput
from mcp_server.storage.sql.statements.names import OWN_SCHEMA, slots_of

_LOCATIONS = frozenset({"location", "stmt_location", "stmt_len", "arg_location"})
_REFUSED = "sql: write the names of this statement without `main.`; it is your schema anyway"


def requalify(
    sql: str, tree: ast.RawStmt, schema: str, at: Collection[int], *, anywhere: bool
) -> str:
    """Return `sql` with `schema` for each `main` before a dot at the offsets `at`, or `anywhere`.

    `tree` is the parse tree in which the caller did the same. The edited text must parse to just that
    tree: a text edit alone could change what the statement means.

    Raises:
        InvalidInput: it does not.
    """
    pieces: list[str] = []
    tokens = scan(sql)
    kept = 0
    for token, dot in pairwise(tokens):
        word = sql[token.start : token.end + 1]
        own = token.name == "IDENT" and word.strip('"').lower() == OWN_SCHEMA
        if own and dot.name == "ASCII_46" and (anywhere or token.start in at):
            pieces.append(sql[kept : token.start] + schema)
            kept = token.end + 1
    edited = "".join(pieces) + sql[kept:]
    try:
        same = [plain(node) for node in parse_sql(edited)] == [plain(tree)]
    except (ParseError, RecursionError) as error:
        raise InvalidInput(_REFUSED, param="sql") from error
    if not same:
        raise InvalidInput(_REFUSED, param="sql")
    return edited


def plain(value: Any) -> Any:
    """Return a parse tree as tuples, without the places in the text."""
    if isinstance(value, ast.Node):
        slots = (slot for slot in slots_of(value) if slot not in _LOCATIONS)
        return (type(value).__name__, *((slot, plain(getattr(value, slot))) for slot in slots))
    if isinstance(value, tuple):
        return tuple(plain(item) for item in cast("tuple[Any, ...]", value))
    return value
