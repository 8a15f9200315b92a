"""The keys of durable namespaces: each call one transaction on the control database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import NotFound
from mcp_server.operation import Operation
from mcp_server.services.kv import durable, durable_leases
from mcp_server.services.kv.drafts import KvDelete, KvIncrement, KvWrite
from mcp_server.services.kv.items import (
    Address,
    KvDeleted,
    KvItem,
    KvLease,
    KvReleased,
    Terms,
    lease_of,
)
from mcp_server.services.writes import Draft
from mcp_server.timestamps import iso_or_none

# The one namespace that is there before anything is written to it.
FIRST_NAMESPACE = "default"


class StoredKeys:
    """`services.kv.keys.Keys` in PostgreSQL; with `keep`, what is replaced is kept for undo."""

    def __init__(self, control: AsyncEngine, *, keep: bool) -> None:
        self._control = control
        self._keep = keep

    async def read(self, tenant: str, namespace: str, keys: Sequence[str]) -> list[KvItem]:
        async with self._control.connect() as tx:
            if len(keys) == 1:
                row = await durable.read(tx, Address(tenant, namespace, keys[0]))
                return [] if row is None else [item_of(row)]
            return [item_of(row) for row in await durable.read_many(tx, tenant, namespace, keys)]

    async def write(
        self, op: Operation, at: Address, value: Any, encoded: str, terms: Terms
    ) -> KvItem:
        """Write once under the operation's key. The value is not stored a second time for that."""
        draft = KvWrite(at, self._keep, value, encoded, terms)
        async with self._control.begin() as tx:
            done: dict[str, Any] | None = await op.replay(tx)
            if done is None:
                answer = await draft.apply(tx, op)
                done = {name: answer[name] for name in ("version", "expires_at")}
                await op.remember(tx, done)
            else:
                value = await durable.value_of(tx, at, done["version"], value)
        return KvItem(key=at.key, namespace=at.namespace, value=value, **done)

    async def increment(self, op: Operation, at: Address, by: float, ttl: float | None) -> KvItem:
        return KvItem(**await self._once(op, KvIncrement(at, self._keep, by, ttl)))

    async def delete(self, op: Operation, at: Address, expected: int | None) -> KvDeleted:
        return KvDeleted(**await self._once(op, KvDelete(at, self._keep, expected)))

    async def _once(self, op: Operation, draft: Draft) -> dict[str, Any]:
        async with self._control.begin() as tx:
            done: dict[str, Any] | None = await op.replay(tx, draft.effect)
            if done is None:
                done = await op.remember(tx, await draft.apply(tx, op), draft.effect)
        return done

    async def page(
        self, tenant: str, namespace: str, prefixes: Sequence[str], after: str | None, size: int
    ) -> tuple[list[KvItem], bool]:
        async with self._control.connect() as tx:
            rows, more = await durable.page(tx, tenant, namespace, prefixes, after, size)
            if not rows and namespace != FIRST_NAMESPACE:
                await _require(tx, tenant, namespace)
        return [item_of(row) for row in rows], more

    async def lease(
        self, op: Operation, at: Address, owner: str | None, ttl: float, token: int | None
    ) -> KvLease:
        async with self._control.begin() as tx:
            done: dict[str, Any] | None = await op.replay(tx, "lease")
            if done is None:
                held = await durable_leases.acquire(tx, at, owner, ttl, token)
                answer = lease_of(at, held)
                done = await op.remember(tx, {**answer}, "lease")
        return KvLease(**done)

    async def release(self, op: Operation, at: Address, token: int) -> KvReleased:
        async with self._control.begin() as tx:
            done: dict[str, Any] | None = await op.replay(tx, "release")
            if done is None:
                released = await durable_leases.release(tx, at, token)
                done = await op.remember(tx, {"released": released}, "release")
        return KvReleased(**done)


async def _require(tx: AsyncConnection, tenant: str, namespace: str) -> None:
    if not await durable.namespace_exists(tx, tenant, namespace):
        raise NotFound(f"namespace {namespace!r} does not exist", param="namespace")


def item_of(row: Row[Any]) -> KvItem:
    """Return a row of the table as an item."""
    return KvItem(
        key=row.key,
        namespace=row.namespace,
        value=row.value,
        version=row.version,
        expires_at=iso_or_none(row.expires_at),
    )
