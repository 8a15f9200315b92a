"""Which other relations a statement reaches: through what it makes they can be written, or it cascades to them."""

from __future__ import annotations

from typing import Any

from pglast import ast, enums

from mcp_server.storage.sql.statements.touched import Touched

# A cascade goes wherever others refer: only the right to all that is there covers it.
EVERYTHING = "*"
_INHERITING = {enums.AlterTableType.AT_AddInherit, enums.AlterTableType.AT_DropInherit}
_NOT_WRITTEN_THROUGH = (
    *("distinctClause", "groupClause", "havingClause", "limitCount", "limitOffset"),
    *("withClause", "windowClause", "valuesLists"),
)


def gather(node: Any, touched: Touched) -> None:
    """Add what one node opens to `touched.opens`."""
    match node:
        case ast.ViewStmt():
            _relations(touched, _written_through(node.query))
        case ast.CreateStmt():  # INHERITS and PARTITION OF: its rows are rows of these
            _relations(touched, *(node.inhRelations or ()))
        case ast.PartitionCmd():
            _relations(touched, node.name)
        case ast.AlterTableCmd() if node.subtype in _INHERITING:
            _relations(touched, node.def_)
        case _:
            pass
    if getattr(node, "behavior", None) == enums.DropBehavior.DROP_CASCADE:
        touched.opens.add(EVERYTHING)


def _relations(touched: Touched, *relations: Any) -> None:
    for relation in relations:
        if isinstance(relation, ast.RangeVar):
            named: Any = relation
            touched.opens.add(touched.named(named.relname, named.schemaname))


def _written_through(query: Any) -> Any:
    """Return the relation that a view can be written through to, None if it certainly cannot.

    https://www.postgresql.org/docs/18/sql-createview.html#SQL-CREATEVIEW-UPDATABLE-VIEWS
    """
    if not isinstance(query, ast.SelectStmt):
        return None
    plain: Any = query
    if any(getattr(plain, slot) for slot in _NOT_WRITTEN_THROUGH) or plain.op:
        return None
    tables = plain.fromClause or ()
    return tables[0] if len(tables) == 1 else None
