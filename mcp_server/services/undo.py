"""Undo: puts back what one change in the journal replaced, as a new change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, cast, literal, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import TypedDict

from mcp_server import journal, policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.services.changes import UNDO
from mcp_server.services.writes import Versioned, carry_out
from mcp_server.storage.sql import schema
from mcp_server.storage.sql.schema import Xid8

INSTEAD = {
    "sql": "no earlier rows are kept; see what is there with sql_query, and reverse it with sql_execute",
    "run": "what a run began cannot be recalled; undo the changes that it made, which changes finds by run",
    "agent": "save the definition that you want with agent_save",
}


class Undone(TypedDict):
    """`restored` is the version that is current again, under a new number, None if there was none."""

    change: str
    uri: str
    restored: int | None


class UndoService:
    """Undoes changes of the stores that keep what their writes replaced, by the scheme of their URIs."""

    def __init__(
        self, operation: Operations, control: AsyncEngine, stores: Mapping[str, Versioned]
    ) -> None:
        self._operation = operation
        self._control = control
        self._stores = stores

    async def undo(
        self, principal: Principal, change: str, *, idempotency_key: str | None = None
    ) -> Undone:
        """Make current what was before the change at a position; an undo can be undone itself.

        Raises:
            NotFound: there is no such change, or the caller may not see it.
            Forbidden: the caller may see it, but not write there.
            InvalidInput: it is no position, or changes of this kind cannot be undone.
            Conflict: something else was written since, it is undone already, or what it replaced is not
                kept any more.
        """
        position = journal.parse_position(change, "change")
        async with self._operation(principal, "write", "tool://undo"):
            entry = await self._entry(principal, position)
        if entry is None or not is_visible(principal, entry):
            raise NotFound(
                f"there is no change {change!r}, or it is too old to be kept; "
                "take it from the field change of what changes returns",
                param="change",
            )
        store, expected = self._checked(entry)
        before = entry.prev_version
        draft = await store.draft_restore(principal, entry.uri, before, expected)
        operation = self._operation(
            principal, draft.verb, draft.uri, key=idempotency_key, labels=(UNDO + change,)
        )
        async with operation as op:
            try:
                await carry_out(self._control, op, draft)
            except (Conflict, IntegrityError) as error:
                if await self._is_undone(principal, position, entry.uri, change):
                    raise Conflict(f"{change} is undone already", param="change") from error
                if isinstance(error, Conflict):
                    raise
                raise Conflict("another call wrote it at the same time", param="change") from error
        return Undone(change=change, uri=entry.uri, restored=before)

    def _checked(self, entry: Row[Any]) -> tuple[Versioned, int]:
        """Return the store of a change, and the version that it left behind, 0 for none."""
        kind = entry.uri.partition("://")[0]
        store = self._stores.get(kind)
        if store is None or entry.verb not in {"write", "delete"}:
            instead = INSTEAD.get(kind, "only keys, objects and documents have earlier versions")
            raise InvalidInput(f"change: {kind}:// cannot be undone: {instead}", param="change")
        if entry.version is None and entry.prev_version is None:
            raise InvalidInput("change: it replaced nothing and left nothing", param="change")
        return store, entry.version or 0

    async def _entry(self, principal: Principal, position: tuple[int, int]) -> Row[Any] | None:
        xid, seq = position
        table = schema.journal
        query = select(table).where(
            table.c.tenant == principal.tenant,
            table.c.xid == cast(literal(str(xid)), Xid8()),
            table.c.seq == seq,
        )
        async with self._control.connect() as connection:
            return (await connection.execute(query)).first()

    async def _is_undone(
        self, principal: Principal, position: tuple[int, int], uri: str, change: str
    ) -> bool:
        table = schema.journal
        label = table.c.labels.contains([UNDO + change])
        query = (
            select(table.c.seq)
            .where(table.c.tenant == principal.tenant, journal.later_than(position))
            .where(table.c.uri == uri, label)
            .limit(1)
        )
        async with self._control.connect() as connection:
            return await connection.scalar(query) is not None


def is_visible(principal: Principal, entry: Row[Any]) -> bool:
    """Tell whether the caller may know of a change in the journal."""
    uri = policy.journalled(entry.uri, entry.labels)
    return policy.allows(principal, "read", uri) or policy.allows(principal, "write", uri)
