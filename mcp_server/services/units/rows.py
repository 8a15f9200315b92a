"""The SQL statements of a unit of work: checked, decided, and run in the tenant's open transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.operation import Operations
from mcp_server.services.sql_call import SqlCall
from mcp_server.services.sql_places import Places, Statement, check
from mcp_server.services.units.parts import MOST_PARTS, RowPart, located
from mcp_server.storage.sql import Page, SqlResult
from mcp_server.storage.sql.unit import UnitTransaction

# Of what a statement returns; a unit is for writing.
ROWS = 100
_PAGE = Page(ROWS, 256 * 1024)


@dataclass(frozen=True, slots=True)
class UnitStatement:
    """One checked statement with its parameters; `statement` opens its operations."""

    index: int
    statement: Statement
    params: Sequence[Any]

    async def run(self, transaction: UnitTransaction) -> dict[str, Any]:
        """Run it; return its answer."""
        with located("rows", self.index):
            result = await transaction.run(self.statement.checked, self.params, _PAGE)
        return _answer(result)


async def statements_of(
    operation: Operations,
    places: Places,
    principal: Principal,
    rows: Sequence[RowPart],
    deadline: float | None,
    key: str | None,
    label: str,
) -> list[UnitStatement]:
    """Return the statements, each checked as `sql_execute` would.

    Raises:
        InvalidInput: there are too many, or one is no statement. Forbidden: one is not on offer.
    """
    if len(rows) > MOST_PARTS:
        raise InvalidInput(
            f"rows: {len(rows)} are more than the {MOST_PARTS} of one unit", param="rows"
        )
    place = places(principal, None)
    statements: list[UnitStatement] = []
    for index, row in enumerate(rows):
        with located("rows", index):
            call = SqlCall(principal.tenant, row["sql"], row.get("params"), ROWS)
            checked = await check(operation, principal, place, row["sql"], writable=True)
        statement = Statement(operation, principal, place, checked, deadline, key, (label,))
        statements.append(UnitStatement(index, statement, call.params))
    return statements


def _answer(result: SqlResult) -> dict[str, Any]:
    return {
        "columns": [{"name": name, "type": type_} for name, type_ in result.columns],
        "rows": result.rows,
        "row_count": result.row_count,
        "truncated": result.more,
    }
