"""Which names a tenant's statement may hold: its own schema's, and the allowed ones of `pg_catalog`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, cast

from pglast import ast

from mcp_server.errors import Forbidden
from mcp_server.storage.sql.statements import grammar
from mcp_server.storage.sql.statements.grammar import Reserved

# The name by which callers know their own schema; its real name is opaque and stays inside.
OWN_SCHEMA = "main"


def slots_of(node: ast.Node) -> Iterable[str]:
    """Return the names of a node's fields, which pglast keeps as the keys of its slots."""
    return cast("Iterable[str]", type(node).__slots__)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def strings(value: Any) -> list[str]:
    """Return a list of String nodes as text; `*` and subscripts are left out."""
    return [item.sval or "" for item in value or () if isinstance(item, ast.String)]


def refused(what: str, mend: str = "") -> Forbidden:
    """Return the one error of everything that is not on offer."""
    tail = f"; {mend}" if mend else ""
    return Forbidden(f"sql: {what} is not available here{tail}", param="sql")


def one_of(value: IntEnum, allowed: frozenset[str], what: str) -> None:
    """Check an enumerator of the parse tree by its name."""
    if value.name not in allowed:
        raise refused(what)


def built_in(value: Any, what: str) -> None:
    """Check the name of an operator, collation or operator class: PostgreSQL's own, or unqualified."""
    parts = strings(value)
    if len(parts) > 1 and parts[0] != "pg_catalog":
        raise refused(f"the {what} {'.'.join(parts)!r} of another schema")


def relation(name: str) -> None:
    """Check a relation's name: all that begin with `pg_` would be found in PostgreSQL's catalog."""
    if name.startswith("pg_"):
        raise refused(
            f"{name!r}", "use sql_schema to see your tables; names in pg_ are PostgreSQL's"
        )


def schema(name: str) -> None:
    """Check the qualifier of a name."""
    if name != OWN_SCHEMA:
        raise refused(
            f"the schema {name!r}", "your tables need no qualifier; sql_schema shows them"
        )


def outside_schema(name: str) -> None:
    """Check the qualifier of a name in a database of the operator's: any schema but PostgreSQL's own."""
    if name.startswith("pg_") or name in ("information_schema", "isthmus") or "." in name:
        raise refused(f"the schema {name!r}", "use sql_schema to see the tables")


def attribute(name: str, reserved: Reserved) -> None:
    """Check the `name` of `x.name`, which PostgreSQL may read as a function call or a cast."""
    if name in reserved.attributes:
        raise refused(f"{name!r} after a dot", "it names a function; rename the column")


def type_name(parts: list[str], reserved: Reserved, *, outside: bool = False) -> None:
    """Check a type: a built-in on offer, or one of the caller's own; `outside`, of any schema's."""
    name = parts[-1]
    if len(parts) == 2 and parts[0] == "pg_catalog":
        if name not in grammar.BUILTIN_TYPES:
            raise refused(f"the type {name!r}")
        return
    if len(parts) > 1:
        (outside_schema if outside else schema)(".".join(parts[:-1]))
        if name in grammar.BUILTIN_TYPES:
            raise refused(f"the type {'.'.join(parts)!r}")
    own = name not in grammar.BUILTIN_TYPES
    if own and (name in reserved.types or name.startswith(("pg_", "_"))):
        raise refused(f"the type {name!r}")
