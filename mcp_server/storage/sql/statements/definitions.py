"""The rules about statements that define, alter and drop objects."""

from __future__ import annotations

from typing import Any

from pglast import ast, enums

from mcp_server.storage.sql.statements import grammar, names
from mcp_server.storage.sql.statements.names import refused, strings
from mcp_server.storage.sql.statements.touched import Touched

_RELATIONS = {
    enums.ObjectType.OBJECT_TABLE,
    enums.ObjectType.OBJECT_VIEW,
    enums.ObjectType.OBJECT_MATVIEW,
    enums.ObjectType.OBJECT_SEQUENCE,
}
# Named by the relation that holds them, and then their own name.
_INNER = {enums.ObjectType.OBJECT_COLUMN, enums.ObjectType.OBJECT_TABCONSTRAINT}


def check(node: Any, touched: Touched) -> None:
    """Check one node; those of no interest here pass.

    Raises:
        Forbidden: it names a kind of object, or another's schema, that is not on offer.
    """
    if getattr(node, "concurrent", False):
        raise refused("CONCURRENTLY", "each call is one transaction; leave it out")
    match node:
        case ast.DropStmt():
            _object_kind(node.removeType, "dropping")
            node.objects = tuple(touched.object(item) for item in node.objects or ())
        case ast.CommentStmt():
            kind = _object_kind(node.objtype, "a comment on")
            node.object = touched.object(node.object, inner=kind in _INNER)
        case ast.RenameStmt():
            _rename(node, touched)
        case ast.CreateEnumStmt() | ast.AlterEnumStmt() | ast.AlterDomainStmt():
            node.typeName = touched.object(node.typeName)
        case ast.CreateDomainStmt():
            node.domainname = touched.object(node.domainname)
        case ast.AlterTableStmt():
            _object_kind(node.objtype, "altering")
        case ast.AlterTableCmd():
            kind = enums.AlterTableType(node.subtype)
            names.one_of(kind, grammar.ALTER_TABLE_COMMANDS, "this form of ALTER")
        case _:
            _part(node, touched)


def _part(node: Any, touched: Touched) -> None:
    match node:
        case ast.Constraint():
            for _, operator in node.exclusions or ():
                names.built_in(operator, "operator")
        case ast.DefElem() if node.defname == "owned_by" and strings(node.arg) != ["none"]:
            node.arg = touched.object(node.arg, inner=True)
        case ast.DefElem() if node.defname == "sequence_name":
            node.arg = touched.object(node.arg)
        case _:
            pass


def _object_kind(value: Any, what: str) -> enums.ObjectType:
    kind = enums.ObjectType(value)
    names.one_of(kind, grammar.OBJECTS, f"{what} this kind of object")
    return kind


def _rename(node: Any, touched: Touched) -> None:
    kind = _object_kind(node.renameType, "renaming")
    if node.object is not None:
        node.object = touched.object(node.object)
    if kind in _RELATIONS:
        names.relation(node.newname)
        schema = node.relation.schemaname if node.relation is not None else None
        touched.writes.add(touched.named(node.newname, schema))
