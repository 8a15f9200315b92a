"""The journal as its readers see it: what changed, in order, filtered by what they may see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, and_, false, func, not_, or_
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import TypedDict

from mcp_server import filters, journal, policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.operation import Operations
from mcp_server.services import names
from mcp_server.storage.sql import schema
from mcp_server.timestamps import iso

# Begins the label that tells which change an entry took back.
UNDO = "undo:"
FILTERABLE = ("uri", "verb", "version", "subject", "run")


class Change(TypedDict):
    """One change; `verb` is write, delete or a run's new status, `at` is ISO 8601 in UTC.

    `change` is its position, by which it can be undone; `undid` is that of the change it took back.
    """

    change: str
    uri: str
    verb: str
    version: int | None
    prev_version: int | None
    subject: str
    run: str | None
    undid: str | None
    at: str


class ChangePage(TypedDict):
    items: list[Change]
    next_after: str | None


class ChangeService:
    """Reads the journal of the caller's tenant."""

    def __init__(self, operation: Operations, control: AsyncEngine) -> None:
        self._operation = operation
        self._control = control

    async def list(
        self,
        principal: Principal,
        *,
        after: str | None = None,
        filter: dict[str, Any] | None = None,  # noqa: A002  the contract's name
        limit: int | None = None,
    ) -> ChangePage:
        """Return the changes after a position, oldest first; call again with `next_after`.

        A `uri` in the filter that ends in `*` is a prefix, for `eq` and `ne`.

        Raises:
            InvalidInput: the position, the limit or the filter does not fit, or what followed the
                position is not kept any more.
        """
        size = names.page_size(limit)
        where = _visible(principal)
        if filter is not None:
            where = where & _condition(filters.parse(filter))
        async with self._operation(principal, "read", "tool://changes"):
            rows, last = await journal.read(self._control, principal.tenant, after, size, where)
        return ChangePage(items=[_change(row) for row in rows], next_after=last)


def _visible(principal: Principal) -> ColumnElement[bool]:
    uri = schema.journal.c.uri
    granted = policy.granted(principal, "read")
    seen = uri.is_not(None) if granted is None else _any_of(granted)
    if policy.operates(principal):
        return seen
    # A database or bucket of the operator's shows its changes to those whose scopes name it.
    outside = or_(
        and_(func.starts_with(uri, "sql://"), not_(func.starts_with(uri, "sql://main/"))),
        and_(func.starts_with(uri, "object://"), schema.journal.c.labels.contains([policy.EGRESS])),
    )
    named = [
        item
        for kind in ("sql://", "object://")
        for item in policy.named(principal, "read", kind)
        if policy.outside(policy.Outside(item))
    ]
    return or_(and_(seen, not_(outside)), _any_of(named))


def _any_of(granted: Iterable[str]) -> ColumnElement[bool]:
    uri = schema.journal.c.uri
    conditions = [
        func.starts_with(uri, item[:-1]) if item.endswith("*") else uri == item for item in granted
    ]
    return or_(false(), *conditions)


def _condition(node: filters.Filter) -> ColumnElement[bool]:
    if isinstance(node, filters.Compound):
        parts = [_condition(item) for item in node.filters]
        return and_(*parts) if node.type == "and" else or_(*parts)
    value = node.value
    if node.key == "uri" and node.type in {"eq", "ne"} and str(value).endswith("*"):
        begins = func.starts_with(schema.journal.c.uri, str(value)[:-1])
        return begins if node.type == "eq" else not_(begins)
    return filters.compile(node, _column)


def _column(key: str) -> ColumnElement[Any]:
    if key not in FILTERABLE:
        raise InvalidInput(
            f"filter.key: {key!r} is not a field of a change; use {', '.join(FILTERABLE)}",
            param="filter",
        )
    return schema.journal.c[key]


def _change(row: dict[str, Any]) -> Change:
    undid = [item.removeprefix(UNDO) for item in row["labels"] if item.startswith(UNDO)]
    return Change(
        change=f"{row['xid']}.{row['seq']}",
        uri=row["uri"],
        verb=row["verb"],
        version=row["version"],
        prev_version=row["prev_version"],
        subject=row["subject"],
        run=row["run"],
        undid=undid[0] if undid else None,
        at=iso(row["at"]),
    )
