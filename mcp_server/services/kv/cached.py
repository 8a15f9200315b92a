"""The keys of cache namespaces: the engine's steps, under the operation's idempotency key."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.errors import Unavailable
from mcp_server.operation import Operation
from mcp_server.services.kv.items import (
    Address,
    Held,
    KvDeleted,
    KvItem,
    KvLease,
    KvReleased,
    Terms,
    VersionConflict,
    encode,
    lease_of,
    not_held,
)
from mcp_server.services.kv.numbers import add
from mcp_server.storage.cache import CacheEngine, Conditions, Entry, Place, Refusal
from mcp_server.timestamps import iso_or_none

# Of those who add to one key at once, one gets on in each turn.
TURNS = 1000


class CachedKeys:
    """`services.kv.keys.Keys` in a cache engine.

    Nothing is journalled. What is done under an idempotency key is marked after it, not with it: after a
    crash between the two it is done again.
    """

    def __init__(self, control: AsyncEngine, engine: CacheEngine) -> None:
        self._control = control
        self._engine = engine

    async def read(self, tenant: str, namespace: str, keys: Sequence[str]) -> list[KvItem]:
        entries = await self._engine.read(tenant, namespace, keys)
        return [_item(namespace, entry) for entry in entries]

    async def write(
        self, op: Operation, at: Address, value: Any, encoded: str, terms: Terms
    ) -> KvItem:
        async def do() -> dict[str, Any]:
            conditions = Conditions(terms.expected, terms.fence, terms.ttl)
            entry = await self._engine.write(_place(at), encoded, conditions)
            if isinstance(entry, Refusal):
                raise (
                    not_held(terms.fence or 0) if not entry.held else VersionConflict(entry.version)
                )
            return {"version": entry.version, "expires_at": iso_or_none(entry.expires_at)}

        done = await self._once(op, "write", do)
        return KvItem(key=at.key, namespace=at.namespace, value=value, **done)

    async def increment(self, op: Operation, at: Address, by: float, ttl: float | None) -> KvItem:
        async def do() -> dict[str, Any]:
            for _ in range(TURNS):
                entries = await self._engine.read(at.tenant, at.namespace, [at.key])
                value = json.loads(entries[0].value) if entries else 0
                version = entries[0].version if entries else 0
                conditions = Conditions(version, ttl=ttl, keeps_expiry=bool(entries))
                total = encode(add(value, by))
                entry = await self._engine.write(_place(at), total, conditions)
                if not isinstance(entry, Refusal):
                    return {**_item(at.namespace, entry)}
            raise Unavailable("other writers keep changing this key; try again")

        return KvItem(**await self._once(op, "write", do))

    async def delete(self, op: Operation, at: Address, expected: int | None) -> KvDeleted:
        async def do() -> dict[str, Any]:
            version = await self._engine.delete(_place(at), expected)
            if isinstance(version, Refusal):
                raise VersionConflict(version.version)
            return {"deleted": version > 0}

        return KvDeleted(**await self._once(op, "delete", do))

    async def page(
        self, tenant: str, namespace: str, prefixes: Sequence[str], after: str | None, size: int
    ) -> tuple[list[KvItem], bool]:
        entries: list[Entry] = []
        cut = False
        for prefix in prefixes:  # in order, and none within another
            missing = size + 1 - len(entries)
            if cut or not missing:
                break
            found, cut = await self._engine.page(tenant, namespace, prefix, after, missing)
            entries += found
        items = [_item(namespace, entry) for entry in entries[:size]]
        return items, cut or len(entries) > size

    async def lease(
        self, op: Operation, at: Address, owner: str | None, ttl: float, token: int | None
    ) -> KvLease:
        async def do() -> dict[str, Any]:
            holder = await self._engine.acquire(_place(at), owner, ttl, token)
            return {**lease_of(at, Held(holder.token, holder.owner, holder.expires_at))}

        return KvLease(**await self._once(op, "lease", do))

    async def release(self, op: Operation, at: Address, token: int) -> KvReleased:
        async def do() -> dict[str, Any]:
            return {"released": await self._engine.release(_place(at), token)}

        return KvReleased(**await self._once(op, "release", do))

    async def _once(
        self, op: Operation, effect: str, do: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        done: dict[str, Any] | None = await op.look(self._control, effect)
        if done is not None:
            return done
        done = await do()
        if op.key is not None:
            async with self._control.begin() as tx:
                twin: dict[str, Any] | None = await op.replay(tx, effect)
                done = twin or await op.remember(tx, done, effect)
        return done


def _place(at: Address) -> Place:
    return Place(at.tenant, at.namespace, at.key)


def _item(namespace: str, entry: Entry) -> KvItem:
    return KvItem(
        key=entry.key,
        namespace=namespace,
        value=json.loads(entry.value),
        version=entry.version,
        expires_at=iso_or_none(entry.expires_at),
    )
