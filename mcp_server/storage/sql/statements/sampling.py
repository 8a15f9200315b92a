"""Making a statement that changes rows return them, for a preview; proved against its parse tree."""

from __future__ import annotations

from typing import Any

from pglast import ast
from pglast.parser import ParseError, parse_sql, scan

from mcp_server.storage.sql import Checked
from mcp_server.storage.sql.statements.unqualify import plain

_COMMENTS = {"SQL_COMMENT", "C_COMMENT"}
_SEMICOLON = "ASCII_59"
# PostgreSQL 18 returns both images of a row: https://www.postgresql.org/docs/18/dml-returning.html
_BOTH_IMAGES = 18
_RETURNING = (
    "returning with (old as isthmus_before, new as isthmus_after) isthmus_before.*, isthmus_after.*"
)


def sampling(checked: Checked, version: int) -> str | None:
    """Return the statement with a RETURNING clause: the row as it was, then as it will be.

    None if it returns rows already or changes none, or the server's major `version` is below 18.
    """
    if version < _BOTH_IMAGES:
        return None
    try:
        (tree,) = parse_sql(checked.sql)
        edited = f"{_unended(checked.sql)}\n{_RETURNING}"
        (other,) = parse_sql(edited)
    except (ParseError, RecursionError, ValueError):
        return None
    statement: Any = tree.stmt
    sampled: Any = other.stmt
    if not isinstance(statement, ast.InsertStmt | ast.UpdateStmt | ast.DeleteStmt | ast.MergeStmt):
        return None
    if statement.returningClause is not None or sampled.returningClause is None:
        return None
    sampled.returningClause = None
    return edited if plain(sampled) == plain(statement) else None


def _unended(sql: str) -> str:
    """Return the text up to its last word that is neither a comment nor the final semicolon."""
    for token in reversed(scan(sql)):
        if token.name not in _COMMENTS and token.name != _SEMICOLON:
            return sql[: token.end + 1]
    return sql
