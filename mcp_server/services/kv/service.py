"""What a door may ask of keys: every method is one operation on `kv://NAMESPACE/KEY`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, LimitExceeded, NotFound
from mcp_server.operation import Operations
from mcp_server.services import names
from mcp_server.services.kv.cached import CachedKeys
from mcp_server.services.kv.drafting import CACHE, KvDrafting, checked
from mcp_server.services.kv.items import (
    MAX_KEYS,
    MAX_LEASE_SECONDS,
    MAX_PAGE_BYTES,
    Address,
    KvDeleted,
    KvItem,
    KvLease,
    KvMany,
    KvPage,
    KvReleased,
    base,
    check_expected,
    check_owner,
    check_token,
    check_ttl,
    encode,
)
from mcp_server.services.kv.keys import Keys
from mcp_server.services.kv.stored import StoredKeys
from mcp_server.storage.cache import CacheEngine
from mcp_server.storage.cache.memory import MemoryCache


class KvService(KvDrafting):
    """Keys, durable in the control database, or in `cache`: without one, in this process.

    `undo_days` is how long what is replaced is kept; 0 keeps nothing.
    """

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        *,
        cache: CacheEngine | None = None,
        undo_days: float = 0,
    ) -> None:
        super().__init__(control, keep=undo_days > 0)
        self._operation = operation
        self._cached = CachedKeys(control, cache or MemoryCache())
        self._stored = StoredKeys(control, keep=undo_days > 0)

    async def get(self, principal: Principal, namespace: str, key: str) -> KvItem:
        """Return one item.

        Raises:
            NotFound: there is no such key, or it has expired.
        """
        at = Address.of(principal.tenant, namespace, key)
        async with self._operation(principal, "read", at.uri):
            found = await self._keys(namespace).read(at.tenant, namespace, [key])
        if not found:
            raise NotFound(f"key {key!r} does not exist in namespace {namespace!r}", param="key")
        return found[0]

    async def get_many(self, principal: Principal, namespace: str, keys: list[str]) -> KvMany:
        """Return the items of up to 100 keys, all as they were at one moment; each is read as by `get`.

        Raises:
            InvalidInput: there are none or too many. LimitExceeded: the values are too large together.
        """
        if not 1 <= len(keys) <= MAX_KEYS:
            raise InvalidInput(f"keys: {len(keys)} keys are not within 1-{MAX_KEYS}", param="keys")
        places = {key: Address.of(principal.tenant, namespace, key) for key in keys}
        async with AsyncExitStack() as stack:
            for at in places.values():
                await stack.enter_async_context(self._operation(principal, "read", at.uri))
            found = await self._keys(namespace).read(principal.tenant, namespace, [*places])
        items = {item["key"]: item for item in found}
        if sum(len(encode(item["value"])) for item in found) > MAX_PAGE_BYTES:
            raise LimitExceeded(
                f"the values are more than {MAX_PAGE_BYTES} bytes together; ask for fewer keys",
                param="keys",
            )
        return KvMany(
            items=[items[key] for key in places if key in items],
            missing=[key for key in places if key not in items],
        )

    async def set(
        self,
        principal: Principal,
        namespace: str,
        key: str,
        value: Any,
        *,
        ttl_seconds: float | None = None,
        expected_version: int | None = None,
        fence: int | None = None,
        idempotency_key: str | None = None,
    ) -> KvItem:
        """Write one value and return the item with its new version.

        Raises:
            Conflict: the key's version is not `expected_version` (0 = it must not exist), or the lease
                of the token `fence` is not held.
            InvalidInput: the value is not JSON or too large, or the time to live is out of range.
        """
        at, terms = checked(principal, namespace, key, ttl_seconds, expected_version, fence)
        encoded = encode(value)
        async with self._operation(principal, "write", at.uri, key=idempotency_key) as op:
            return await self._keys(namespace).write(op, at, value, encoded, terms)

    async def increment(
        self,
        principal: Principal,
        namespace: str,
        key: str,
        by: float = 1,
        *,
        ttl_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> KvItem:
        """Add to a number, exactly. A key that is not there counts as 0; only then it gets a time to live.

        Raises:
            Conflict: the value is not a number. InvalidInput: the sum cannot be held without loss.
        """
        at = Address.of(principal.tenant, namespace, key)
        ttl = check_ttl(ttl_seconds)
        async with self._operation(principal, "write", at.uri, key=idempotency_key) as op:
            return await self._keys(namespace).increment(op, at, by, ttl)

    async def delete(
        self,
        principal: Principal,
        namespace: str,
        key: str,
        *,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
    ) -> KvDeleted:
        """Delete one key and tell whether it was there.

        Raises:
            Conflict: the key's version is not `expected_version`.
        """
        at = Address.of(principal.tenant, namespace, key)
        expected = check_expected(expected_version)
        async with self._operation(principal, "write", at.uri, key=idempotency_key) as op:
            return await self._keys(namespace).delete(op, at, expected)

    async def lease(
        self,
        principal: Principal,
        namespace: str,
        key: str,
        ttl_seconds: float,
        *,
        owner: str | None = None,
        token: int | None = None,
        idempotency_key: str | None = None,
    ) -> KvLease:
        """Take the lease called `key` if nobody holds it; with `token`, prolong the one held under it.

        The token of whoever takes it next is higher, for ever. The store's clock decides. Leases have
        names of their own beside the keys, and are audited but not journalled.

        Raises:
            InvalidInput: the time is not above 0 and at most a day.
        """
        at = Address.of(principal.tenant, namespace, key)
        check_ttl(ttl_seconds, MAX_LEASE_SECONDS)
        given = (check_owner(owner), ttl_seconds, check_token(token, "token"))
        async with self._operation(principal, "write", at.uri, key=idempotency_key) as op:
            return await self._keys(namespace).lease(op, at, *given)

    async def release(
        self,
        principal: Principal,
        namespace: str,
        key: str,
        token: int,
        *,
        idempotency_key: str | None = None,
    ) -> KvReleased:
        """Give a lease back; tells False if it is not held under `token`, and changes nothing then."""
        at = Address.of(principal.tenant, namespace, key)
        check_token(token, "token")
        async with self._operation(principal, "write", at.uri, key=idempotency_key) as op:
            return await self._keys(namespace).release(op, at, token)

    async def list(
        self,
        principal: Principal,
        namespace: str,
        *,
        prefix: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> KvPage:
        """Return a page of items in byte order of their keys.

        A key that is there while all pages are read stands on one of them, once, whatever else comes
        and goes meanwhile.

        Raises:
            NotFound: nothing was ever written to the namespace.
        """
        under = base(namespace)
        start, size = names.prefix(prefix), names.page_size(limit)
        after = names.decode_cursor(cursor)
        visible = policy.scope(principal, "read", "kv").within(under)
        prefixes = [start] if visible is None else _narrowed(start, visible)
        async with self._operation(principal, "read", policy.Listing(under + start)):
            keys = self._keys(namespace)
            items, more = await keys.page(principal.tenant, namespace, prefixes, after, size)
        return KvPage(
            items=items, next_cursor=names.encode_cursor(items[-1]["key"]) if more else None
        )

    def _keys(self, namespace: str) -> Keys:
        return self._cached if namespace.startswith(CACHE) else self._stored


def _narrowed(start: str, visible: tuple[str, ...]) -> list[str]:
    """Return the prefixes of what is visible under `start`, in byte order, none within another."""
    wanted = {
        start if start.startswith(seen) else seen
        for seen in visible
        if seen.startswith(start) or start.startswith(seen)
    }
    return sorted(
        (own for own in wanted if not any(own != all_ and own.startswith(all_) for all_ in wanted)),
        key=str.encode,
    )
