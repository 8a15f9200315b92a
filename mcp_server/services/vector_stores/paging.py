"""Pages of lists that are ordered by creation, in both directions and before or behind an item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.services.vector_stores.records import Paging, UnknownCursor

_SHOWN = 80


async def page_of(
    tx: AsyncConnection,
    query: Select[Any],
    created_at: ColumnElement[Any],
    name: ColumnElement[Any],
    paging: Paging,
) -> tuple[Sequence[Row[Any]], bool]:
    """Return a page of what a query selects, and whether there is more behind it (or before it).

    Raises:
        UnknownCursor: `after` or `before` is not in the list.
    """
    order = tuple_(created_at, name)
    backwards = paging.before is not None
    cursor = paging.before if backwards else paging.after
    descending = paging.newest_first != backwards
    if cursor is not None:
        at = (
            None
            if "\0" in cursor
            else (await tx.execute(query.where(name == cursor))).mappings().first()
        )
        if at is None:
            which = "before" if backwards else "after"
            raise UnknownCursor(f"{which}: no item {cursor[:_SHOWN]!r} in this list", param=which)
        mark = tuple_(at[created_at], at[name])
        query = query.where(order < mark if descending else order > mark)
    columns = (created_at, name)
    query = query.order_by(*(each.desc() if descending else each for each in columns))
    found = (await tx.execute(query.limit(paging.limit + 1))).all()
    shown = found[: paging.limit]
    return shown[::-1] if backwards else shown, len(found) > paging.limit
