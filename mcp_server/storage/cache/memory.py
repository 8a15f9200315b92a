"""The cache in this process: bounded, least recently used first out, shared with no other process."""

from __future__ import annotations

import bisect
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mcp_server.errors import LimitExceeded
from mcp_server.storage.cache import (
    MAX_PAGE_BYTES,
    Conditions,
    Entry,
    Holder,
    Place,
    Refusal,
)

MAX_BYTES = 64 * 1024 * 1024
MAX_LEASES = 100_000
# What an entry costs beside its text.
_OVERHEAD = 400


@dataclass(slots=True)
class _Cell:
    value: str
    version: int
    expires_at: float | None
    size: int


@dataclass(slots=True)
class _Lease:
    token: int
    owner: str | None
    expires_at: float


@dataclass(slots=True)
class _Tenant:
    """The entries of one tenant, the least recently used one first, and its keys in order."""

    cells: OrderedDict[tuple[str, str], _Cell] = field(
        default_factory=OrderedDict[tuple[str, str], _Cell]
    )
    order: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    size: int = 0


class MemoryCache:
    """Nothing is awaited within a step, so each is atomic. `clock` gives seconds since the epoch."""

    def __init__(self, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._size = 0
        self._leases: dict[Place, _Lease] = {}
        self._tokens: dict[tuple[str, int], _Lease] = {}
        self._last = 0

    async def read(self, tenant: str, namespace: str, keys: Sequence[str]) -> list[Entry]:
        found = ((key, self._cell(Place(tenant, namespace, key))) for key in keys)
        return [_entry(key, cell) for key, cell in found if cell is not None]

    async def write(self, place: Place, value: str, conditions: Conditions) -> Entry | Refusal:
        if conditions.fence is not None and not self._held(place.tenant, conditions.fence):
            return Refusal(held=False)
        before = self._cell(place)
        current = before.version if before is not None else 0
        if conditions.expected is not None and conditions.expected != current:
            return Refusal(current)
        expires_at = None if conditions.ttl is None else self._clock() + conditions.ttl
        if conditions.keeps_expiry and before is not None:
            expires_at = before.expires_at
        size = len(value) + 2 * len(place.key) + _OVERHEAD
        cell = _Cell(value, self._next(), expires_at, size)
        self._put(place, cell)
        self._evict()
        return _entry(place.key, cell)

    async def delete(self, place: Place, expected: int | None) -> int | Refusal:
        before = self._cell(place)
        current = before.version if before is not None else 0
        if expected is not None and expected != current:
            return Refusal(current)
        if before is not None:
            self._drop(place.tenant, (place.namespace, place.key))
        return current

    async def page(
        self, tenant: str, namespace: str, prefix: str, after: str | None, size: int
    ) -> tuple[list[Entry], bool]:
        # Code points are in the order of their bytes in UTF-8.
        keys = self._tenants[tenant].order.get(namespace, []) if tenant in self._tenants else []
        start = bisect.bisect_left(keys, prefix)
        if after is not None:
            start = max(start, bisect.bisect_right(keys, after))
        entries: list[Entry] = []
        expired: list[tuple[str, str]] = []
        room = MAX_PAGE_BYTES
        for index in range(start, len(keys)):
            key = keys[index]
            if not key.startswith(prefix) or len(entries) == size or room <= 0:
                break
            cell = self._tenants[tenant].cells[namespace, key]
            if self._expired(cell):
                expired.append((namespace, key))
            else:
                entries.append(_entry(key, cell))
                room -= len(cell.value)
        for gone in expired:
            self._drop(tenant, gone)
        return entries, room <= 0

    async def erase(self, tenant: str) -> None:
        gone = self._tenants.pop(tenant, None)
        self._size -= gone.size if gone is not None else 0
        for place in [place for place in self._leases if place.tenant == tenant]:
            self._forget(place)

    async def answers(self) -> str:
        return "in this process"

    async def acquire(
        self, place: Place, owner: str | None, ttl: float, token: int | None
    ) -> Holder:
        now = self._clock()
        lease = self._leases.get(place)
        held = lease is not None and lease.expires_at > now
        if token is None and not held:
            self._make_room(now)
            self._forget(place)
            lease = self._leases[place] = _Lease(self._next(), owner, now + ttl)
            self._tokens[place.tenant, lease.token] = lease
        elif lease is not None and held and lease.token == token:
            lease.expires_at, lease.owner = now + ttl, owner or lease.owner
        elif lease is not None and held:
            return Holder(None, lease.owner, _moment(lease.expires_at))
        else:
            return Holder()
        return Holder(lease.token, lease.owner, _moment(lease.expires_at))

    async def release(self, place: Place, token: int) -> bool:
        lease = self._leases.get(place)
        if lease is None or lease.token != token or lease.expires_at <= self._clock():
            return False
        self._forget(place)
        return True

    def _next(self) -> int:
        """Return a number above all before it, also those of a process that is gone: it follows the clock."""
        self._last = max(self._last + 1, int(self._clock() * 1_000_000))
        return self._last

    def _expired(self, cell: _Cell) -> bool:
        return cell.expires_at is not None and cell.expires_at <= self._clock()

    def _cell(self, place: Place) -> _Cell | None:
        """Return what is there, as used last."""
        own, at = self._tenants.get(place.tenant), (place.namespace, place.key)
        cell = None if own is None else own.cells.get(at)
        if own is None or cell is None:
            return None
        if self._expired(cell):
            self._drop(place.tenant, at)
            return None
        own.cells.move_to_end(at)
        return cell

    def _put(self, place: Place, cell: _Cell) -> None:
        own = self._tenants.setdefault(place.tenant, _Tenant())
        at = (place.namespace, place.key)
        before = own.cells.get(at)
        if before is None:
            bisect.insort(own.order.setdefault(place.namespace, []), place.key)
        grown = cell.size - (before.size if before is not None else 0)
        own.size += grown
        self._size += grown
        own.cells[at] = cell
        own.cells.move_to_end(at)

    def _drop(self, tenant: str, at: tuple[str, str]) -> None:
        own = self._tenants[tenant]
        freed = own.cells.pop(at).size
        own.size -= freed
        self._size -= freed
        keys = own.order[at[0]]
        del keys[bisect.bisect_left(keys, at[1])]
        if not keys:
            del own.order[at[0]]
        if not own.cells:
            del self._tenants[tenant]

    def _evict(self) -> None:
        """Make room; the tenant that holds most gives way, so that none pushes out the others."""
        while self._size > self._max_bytes:
            tenant, own = max(self._tenants.items(), key=lambda item: item[1].size)
            self._drop(tenant, next(iter(own.cells)))

    def _held(self, tenant: str, token: int) -> bool:
        lease = self._tokens.get((tenant, token))
        return lease is not None and lease.expires_at > self._clock()

    def _forget(self, place: Place) -> None:
        lease = self._leases.pop(place, None)
        if lease is not None:
            del self._tokens[place.tenant, lease.token]

    def _make_room(self, now: float) -> None:
        if len(self._leases) < MAX_LEASES:
            return
        for place in [at for at, own in self._leases.items() if own.expires_at <= now]:
            self._forget(place)
        if len(self._leases) >= MAX_LEASES:
            raise LimitExceeded(
                f"this process holds {MAX_LEASES} leases of cache namespaces already"
            )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _entry(key: str, cell: _Cell) -> Entry:
    until = None if cell.expires_at is None else _moment(cell.expires_at)
    return Entry(key, cell.value, cell.version, until)
