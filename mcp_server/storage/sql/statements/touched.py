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

    Names qualified with `main` get the real `schema` in the tree; where they stood in the text is kept:
    offsets in `qualified_at`, or `qualified_list` for names of which the tree has no offset.
    """

    schema: str
    reads: set[str] = field(default_factory=set[str])
    writes: set[str] = field(default_factory=set[str])
    effects: bool = False
    draws: bool = False
    qualified_at: set[int] = field(default_factory=set[int])
    qualified_list: bool = False

    @property
    def qualified(self) -> bool:
        return bool(self.qualified_at) or self.qualified_list

    def requalified(self, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a qualified name with the real schema as its first part."""
        return (ast.String(sval=self.schema), *parts[1:])

    def object(self, value: Any, *, inner: bool = False) -> Any:
        """Check an object named by a list of parts; return the list with the real schema.

        `inner`: the last part names a column or constraint of the relation before it.
        """
        if isinstance(value, ast.TypeName):  # the walk checks it
            self.writes.add(strings(value.names)[-1])
            return value
        if isinstance(value[0], ast.TypeName):  # a domain's constraint: (domain, name)
            return value
        parts = strings(value)
        if len(parts) > 1 + inner:
            names.schema(".".join(parts[: -1 - inner]))
            self.qualified_list = True
            value, parts = self.requalified(value), parts[1:]
        names.relation(parts[0])
        self.writes.add(parts[0])
        return value
