"""What a caller is shown of the tables in its schema, or in a database of the operator's."""

from __future__ import annotations

from typing import Any, NotRequired, get_args

from typing_extensions import TypedDict

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.services import names
from mcp_server.services.sql_places import MAIN, Place
from mcp_server.storage.sql import Detail, Wanted


class SqlTables(TypedDict):
    """`truncated`: there are more; a narrower pattern or less detail shows them."""

    tables: list[dict[str, Any]]
    truncated: NotRequired[bool]


def wanted(pattern: str | None, detail: Detail) -> Wanted:
    """Return what is asked for.

    Raises:
        InvalidInput: the pattern or the detail does not fit.
    """
    if detail not in get_args(Detail):
        raise InvalidInput(f"detail: {detail!r} is not names, summary or full", param="detail")
    return Wanted(names.prefix(pattern, "pattern") or "*", detail)


async def tables(
    operation: Operations,
    principal: Principal,
    place: Place,
    wanted: Wanted,
    deadline: float | None,
) -> SqlTables:
    """Return the tables that fit and that the caller may read."""
    outside = place.name is not None
    async with operation(
        principal, "read", policy.Listing(place.base), deadline=deadline, egress=outside
    ):
        found, more = await place.database.describe(place.schema, wanted)
    shown = [item for item in found if policy.allows(principal, "read", place.base + _name(item))]
    return SqlTables(tables=shown, truncated=True) if more else SqlTables(tables=shown)


async def table(
    operation: Operations, principal: Principal, place: Place, schema: str, table: str
) -> dict[str, Any]:
    """Return one table in full.

    Raises:
        NotFound: there is no such table, or it is not in the caller's own schema `main`.
    """
    async with operation(principal, "read", place.base + _possible(table)):
        wanted = Wanted(table, "full", exact=True)
        found, _ = (
            await place.database.describe(place.schema, wanted) if schema == MAIN else ([], False)
        )
    if not found:
        raise NotFound(f"the table {table!r} does not exist in the schema {schema!r}")
    return found[0]


def _name(item: dict[str, Any]) -> str:
    return f"{item['schema']}.{item['name']}" if "schema" in item else item["name"]


def _possible(table: str) -> str:
    """Return a name that a table may have in PostgreSQL: up to 63 bytes of any text but U+0000.

    Raises:
        NotFound: no table can be called so.
    """
    encoded = table.encode("utf-8", "replace")
    if not 0 < len(encoded) <= 63 or "\0" in table or encoded.decode() != table:
        raise NotFound(f"table {table[:80]!r} does not exist", param="table")
    return table
