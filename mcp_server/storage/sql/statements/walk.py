"""The walk over a parse tree: every node is checked by its kind, and what the statement touches gathered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from pglast import ast, enums

from mcp_server.errors import Forbidden
from mcp_server.storage.sql.statements import definitions, grammar, names, openings
from mcp_server.storage.sql.statements.functions import ALLOWED_FUNCTIONS, SEQUENCE_FUNCTIONS
from mcp_server.storage.sql.statements.grammar import Reserved
from mcp_server.storage.sql.statements.names import OWN_SCHEMA, refused, slots_of, strings
from mcp_server.storage.sql.statements.touched import Touched

_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_IDENTIFIER = re.compile(r'[A-Za-z_\u0080-\U0010ffff][\w$]*|"(?:[^"]|"")+"')


def words(node: ast.Node) -> str:
    """Return a node's kind as SQL says it: CreateTableAsStmt is CREATE TABLE AS."""
    return _CAPITAL.sub(" ", type(node).__name__.removesuffix("Stmt")).upper()


@dataclass(slots=True)
class Walk:
    """One pass over every node; a stack instead of recursion, since trees can be thousands deep."""

    touched: Touched
    writable: bool
    reserved: Reserved
    targets: set[int] = field(default_factory=set[int])
    sequence_types: set[int] = field(default_factory=set[int])
    serials: set[int] = field(default_factory=set[int])

    def run(self, tree: ast.RawStmt) -> None:
        """Check every node.

        Raises:
            Forbidden: at the first one that is not allowed.
        """
        # Each entry carries the CTE names in scope: `with t as (…) select * from t` reads no table t.
        stack: list[tuple[ast.Node, frozenset[str]]] = [(tree, frozenset())]
        while stack:
            node, ctes = stack.pop()
            self._allow(node)
            match node:
                case ast.RangeVar():
                    self._relation(node, ctes)
                case ast.ColumnRef():
                    self._column(node)
                case ast.TypeName():
                    self._type(node)
                case ast.FuncCall():
                    self._function(node)
                case _:
                    self._expression(node)
                    definitions.check(node, self.touched)
                    openings.gather(node, self.touched)
            stack.extend(_children(node, ctes))

    def _allow(self, node: ast.Node) -> None:
        kind = type(node).__name__
        if kind in grammar.WRITING_STATEMENTS:
            self._require_writable(f"{words(node)} writes")
            self.targets.update(id(target) for target in _targets(node))
            if _reads_target(node):
                read = cast("Any", node).relation
                self.touched.reads.add(self.touched.named(read.relname, read.schemaname))
        elif kind == "TransactionStmt":
            raise refused("transaction control", "each call is one transaction")
        elif kind not in grammar.READING_STATEMENTS and kind not in grammar.PARTS:
            raise refused(words(node))
        tablespace = grammar.TABLESPACE_SLOTS.get(kind)
        if tablespace is not None and getattr(node, tablespace):
            raise refused("a tablespace")
        for slot in grammar.QUALIFIED_SLOTS.get(kind, ()):
            names.built_in(getattr(node, slot), slot)

    def _require_writable(self, what: str) -> None:
        if not self.writable:
            raise Forbidden(f"sql: sql_query only reads, and {what}; use sql_execute", param="sql")
        self.touched.effects = True

    def _relation(self, node: Any, ctes: frozenset[str]) -> None:
        if node.catalogname:
            raise refused("a name with a database")
        own = node.schemaname is None
        name = self.touched.named(node.relname, node.schemaname)
        if not own:
            self.touched.qualify(node.schemaname)
            if not self.touched.outside:
                node.schemaname = self.touched.schema
                self.touched.qualified_at.add(node.location)
        names.relation(node.relname)
        if node.relpersistence == "t":
            raise refused("a temporary table", "create a table and drop it")
        if id(node) in self.targets:
            self.touched.writes.add(name)
        elif not (own and node.relname in ctes):
            self.touched.reads.add(name)

    def _column(self, node: Any) -> None:
        # PostgreSQL reads three parts as schema.table.column, four as database.schema.table.column.
        if len(node.fields) > 2:
            self.touched.qualify(".".join(strings(node.fields[:-2])))
            node.fields = self.touched.requalified(node.fields)
            if not self.touched.outside:
                self.touched.qualified_at.add(node.location)
        for name in strings(node.fields[1:]):
            names.attribute(name, self.reserved)

    def _type(self, node: Any) -> None:
        if id(node) in self.sequence_types:
            return
        if node.pct_type:
            raise refused("%TYPE")
        parts = strings(node.names)
        names.type_name(parts, self.reserved, outside=self.touched.outside)
        if parts[0] == OWN_SCHEMA and len(parts) > 1 and not self.touched.outside:
            node.names = self.touched.requalified(node.names)
            self.touched.qualified_list = True

    def _function(self, node: Any) -> None:
        parts = strings(node.funcname)
        name = parts[-1]
        foreign = len(parts) > 1 and parts[:-1] != ["pg_catalog"]
        if foreign or name not in ALLOWED_FUNCTIONS:
            raise refused(f"the function {'.'.join(parts)}()")
        if name in SEQUENCE_FUNCTIONS:
            self._sequence(node, name)
        elif name == "pg_get_serial_sequence" and id(node) not in self.serials:
            raise refused(f"{name}() alone", "use it as the argument of nextval() or setval()")

    def _sequence(self, node: Any, name: str) -> None:
        """Check the sequence of nextval and its kin: a regclass, which any object's number would fit."""
        argument = node.args[0] if node.args else None
        if isinstance(argument, ast.FuncCall):
            if strings(argument.funcname)[-1:] == ["pg_get_serial_sequence"]:
                self.serials.add(id(argument))  # on its own it would show the schema's real name
                argument = (argument.args or (None,))[0]  # the table stands for its sequence
        elif isinstance(argument, ast.TypeCast):
            cast_to: Any = argument.typeName
            if strings(cast_to.names) == ["regclass"]:
                self.sequence_types.add(id(cast_to))
            argument = argument.arg
        sequence = self.touched.named(_literal(argument, name))
        if name == "currval":
            self.touched.reads.add(sequence)
        else:
            self.touched.writes.add(sequence)
            self.touched.effects = self.touched.draws = True

    def _expression(self, node: Any) -> None:
        match node:
            case ast.A_Indirection():
                for name in strings(node.indirection):
                    names.attribute(name, self.reserved)
            case ast.SQLValueFunction():
                value = enums.SQLValueFunctionOp(node.op)
                names.one_of(value, grammar.VALUE_FUNCTIONS, "this session value")
            case ast.SelectStmt():
                if node.intoClause is not None:
                    raise refused("SELECT INTO", "use create table … as select …")
            case ast.LockingClause():
                self._require_writable("FOR UPDATE and FOR SHARE lock rows")
            case ast.RangeTableSample():
                if strings(node.method)[-1] not in grammar.SAMPLING_METHODS:
                    raise refused("this sampling method")
            case _:
                pass


def _literal(argument: Any, name: str) -> str:
    """Return the sequence or table that a literal names; it must be in the caller's own schema."""
    constant = argument.val if isinstance(argument, ast.A_Const) else None
    text = (constant.sval or "") if isinstance(constant, ast.String) else ""
    if not _IDENTIFIER.fullmatch(text):
        raise refused(
            f"{name}() of this argument", "give the name as a string literal without a schema"
        )
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()


def _targets(node: Any) -> Iterator[ast.RangeVar]:
    """Yield the relations that a writing statement changes."""
    for slot in ("relation", "view", "sequence", "typevar"):
        target = getattr(node, slot, None)
        if isinstance(target, ast.RangeVar):
            yield target
    yield from getattr(node, "relations", None) or ()
    if isinstance(node, ast.CreateTableAsStmt):
        into: Any = node.into
        yield into.rel


def _reads_target(node: Any) -> bool:
    """Tell whether the answer depends on rows that the target had: PostgreSQL asks for SELECT on it too."""
    match node:
        case ast.UpdateStmt() | ast.MergeStmt():
            return True
        case ast.DeleteStmt():
            return bool(node.whereClause or node.usingClause or node.returningClause)
        case ast.InsertStmt():
            conflict: Any = node.onConflictClause
            updates = conflict and conflict.action == enums.OnConflictAction.ONCONFLICT_UPDATE
            return bool(node.returningClause or updates)
        case _:
            return False


def _children(node: Any, ctes: frozenset[str]) -> Iterator[tuple[ast.Node, frozenset[str]]]:
    """Yield the nodes below, each with the CTE names that it sees."""
    clause = getattr(node, "withClause", None)
    if clause is not None:
        every = ctes.union(cte.ctename for cte in clause.ctes)
        for cte in clause.ctes:
            # Without RECURSIVE a CTE sees only those before it.
            yield cte, (every if clause.recursive else ctes)
            ctes = ctes | {cte.ctename}
    pending: list[Any] = [getattr(node, slot) for slot in slots_of(node) if slot != "withClause"]
    while pending:
        value = pending.pop()
        if isinstance(value, ast.Node):
            yield value, ctes
        elif isinstance(value, tuple):
            pending.extend(cast("tuple[Any, ...]", value))
