"""What a kind of namespace does with keys, durable or in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from mcp_server.operation import Operation
from mcp_server.services.kv.items import Address, KvDeleted, KvItem, KvLease, KvReleased, Terms


class Keys(Protocol):
    """All arguments are checked. Each change must be one step that others see wholly or not at all,
    done once under the operation's idempotency key, and must raise Conflict if a condition does not hold.
    """

    async def read(self, tenant: str, namespace: str, keys: Sequence[str]) -> list[KvItem]:
        """Return those of up to 100 keys that are there, in any order."""
        ...

    async def write(
        self, op: Operation, at: Address, value: Any, encoded: str, terms: Terms
    ) -> KvItem:
        """Write a value, given as JSON text too, on the given terms."""
        ...

    async def increment(self, op: Operation, at: Address, by: float, ttl: float | None) -> KvItem:
        """Add a number; a key that is not there counts as 0 and lives for `ttl`."""
        ...

    async def delete(self, op: Operation, at: Address, expected: int | None) -> KvDeleted:
        """Delete a key."""
        ...

    async def page(
        self, tenant: str, namespace: str, prefixes: Sequence[str], after: str | None, size: int
    ) -> tuple[list[KvItem], bool]:
        """Return items under any of the prefixes in byte order, and whether more follow."""
        ...

    async def lease(
        self, op: Operation, at: Address, owner: str | None, ttl: float, token: int | None
    ) -> KvLease:
        """Take a lease that nobody holds; with `token`, prolong the one that is held under it."""
        ...

    async def release(self, op: Operation, at: Address, token: int) -> KvReleased:
        """Give a lease back."""
        ...
