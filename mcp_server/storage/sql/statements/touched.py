"""What one statement touches of the caller's schema, gathered while its tree is walked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pglast import ast

from mcp_server.storage.sql.statements import names
from mcp_server.storage.sql.statements.names import strings


@dataclass(slots=True)
class Touched:
    """`reads` and `writes` are names of relations and types; `effects`: it changes or locks something.
    `opens` are relations that it does not write itself, and that need the same right (`openings`).

    Names qualified with `main` get the real `schema` in the tree; where they stood in the text is kept:
    offsets in `qualified_at`, or `qualified_list` for names of which the tree has no offset.

    `outside`: the database is the operator's. Names may be qualified with any schema of it and stay as
    they are, and what is gathered is `SCHEMA.NAME`, where `schema` stands for none.
    """

    schema: str
    outside: bool = False
    reads: set[str] = field(default_factory=set[str])
    writes: set[str] = field(default_factory=set[str])
    opens: set[str] = field(default_factory=set[str])
    effects: bool = False
    draws: bool = False
    qualified_at: set[int] = field(default_factory=set[int])
    qualified_list: bool = False

    @property
    def qualified(self) -> bool:
        return bool(self.qualified_at) or self.qualified_list

    def named(self, name: str, schema: str | None = None) -> str:
        """Return how a relation or type is gathered."""
        return f"{schema or self.schema}.{name}" if self.outside else name

    def qualify(self, schema: str) -> None:
        """Check the qualifier of a name.

        Raises:
            Forbidden: it is not on offer.
        """
        (names.outside_schema if self.outside else names.schema)(schema)

    def requalified(self, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a qualified name with the real schema as its first part."""
        if self.outside:
            return parts
        return (ast.String(sval=self.schema), *parts[1:])

    def object(self, value: Any, *, inner: bool = False) -> Any:
        """Check an object named by a list of parts; return the list with the real schema.

        `inner`: the last part names a column or constraint of the relation before it.
        """
        if isinstance(value, ast.TypeName):  # the walk checks it
            own, *schema = reversed(strings(value.names))
            self.writes.add(self.named(own, ".".join(schema)))
            return value
        if isinstance(value[0], ast.TypeName):  # a domain's constraint: (domain, name)
            return value
        parts = strings(value)
        schema = None
        if len(parts) > 1 + inner:
            schema = ".".join(parts[: -1 - inner])
            self.qualify(schema)
            self.qualified_list = not self.outside
            value, parts = self.requalified(value), parts[-1 - inner :]
        names.relation(parts[0])
        self.writes.add(self.named(parts[0], schema))
        return value
