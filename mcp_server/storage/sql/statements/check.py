"""Which statements a tenant may run: the parse tree is walked whole, and what is not allowed is refused."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from pglast import ast
from pglast.parser import ParseError, parse_sql

from mcp_server.errors import InvalidInput
from mcp_server.storage.sql import Checked
from mcp_server.storage.sql.statements.grammar import Reserved
from mcp_server.storage.sql.statements.nesting import check_size
from mcp_server.storage.sql.statements.touched import Touched
from mcp_server.storage.sql.statements.unqualify import requalify
from mcp_server.storage.sql.statements.walk import Walk, words

# Clients repeat their statements, and a check costs about as much as running a small one.
_CACHED = 512
_CACHED_LENGTH = 4096


def check(
    sql: str, schema: str, *, writable: bool, reserved: Reserved, outside: bool = False
) -> Checked:
    """Return the one statement in `sql`, if a tenant may run it.

    `schema` is the caller's own, put where the statement says `main.`; it must need no quotes. `outside`:
    the database is the operator's, names may be qualified, and `schema` is the one of those that are not.
    `writable` is False for sql_query. The parser is PostgreSQL 18's own.

    Raises:
        InvalidInput: it is not exactly one statement of PostgreSQL, or too large.
        Forbidden: it uses something that is not on offer, or it writes and `writable` is False.
    """
    look = _check_cached if len(sql) <= _CACHED_LENGTH else _check
    return look(sql, schema, writable, reserved, outside)


def _check(sql: str, schema: str, writable: bool, reserved: Reserved, outside: bool) -> Checked:
    check_size(sql)
    try:
        trees = parse_sql(sql)
    except (ParseError, RecursionError, UnicodeError) as error:
        raise InvalidInput(f"sql: {_reason(error)}", param="sql") from error
    if len(trees) != 1:
        found = "no statement" if not trees else f"{len(trees)} statements"
        raise InvalidInput(f"sql: {found} found; send exactly one in each call", param="sql")
    tree = trees[0]
    touched = Touched(schema, outside)
    Walk(touched, writable, reserved).run(tree)
    if touched.qualified:
        sql = requalify(sql, tree, schema, touched.qualified_at, anywhere=touched.qualified_list)
    top: Any = tree.stmt
    if isinstance(top, ast.ExplainStmt) and "analyze" not in _options(top):
        # Only planned, whatever it says.
        touched.reads |= touched.writes
        touched.writes, touched.opens, touched.effects = set(), set(), False
    return Checked(
        sql=sql,
        kind=words(top).lower(),
        writable=writable,
        reads=frozenset(touched.reads),
        writes=frozenset(touched.writes),
        effects=touched.effects,
        edited=touched.qualified,
        draws=touched.draws,
        opens=frozenset(touched.opens),
    )


_check_cached = lru_cache(_CACHED)(_check)


def _options(explain: Any) -> set[str]:
    return {option.defname for option in explain.options or ()}


def _reason(error: Exception) -> str:
    message = str(error.args[0]) if error.args else type(error).__name__
    return re.sub(r", at index (\d+)$", lambda found: f" at character {int(found[1]) + 1}", message)
