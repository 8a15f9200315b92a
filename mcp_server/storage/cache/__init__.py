"""What a cache engine must do: keys with versions, conditions and expiry, and leases, all of which may be lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Place:
    """Where one key of one tenant is."""

    tenant: str
    namespace: str
    key: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One key with its value, which is JSON text."""

    key: str
    value: str
    version: int
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Conditions:
    """`expected` is the version that must be current (0: none), `fence` the token of a held lease.

    `ttl` is in seconds, None for ever; with `keeps_expiry` a key that is there keeps its own.
    """

    expected: int | None = None
    fence: int | None = None
    ttl: float | None = None
    keeps_expiry: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing was changed: the key has another version (0: it is not there), or the lease is not held."""

    version: int = 0
    held: bool = True


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease until when, nobody if `expires_at` is None; `token` only for the holder itself."""

    token: int | None = None
    owner: str | None = None
    expires_at: datetime | None = None


class Cache(Protocol):
    """Keys are a tenant's own: no name of one tenant, however chosen, must reach another's.

    Each method must be one atomic step, decided by the engine's clock, and must raise Unavailable when the
    engine does not answer. An expired key must be absent everywhere. Versions and tokens must rise for ever
    within a tenant, also when everything was lost. A change that raised may have happened; it must not be
    tried twice.
    """

    async def read(self, tenant: str, namespace: str, keys: Sequence[str]) -> list[Entry]:
        """Must return those keys that are there, in any order."""
        ...

    async def write(self, place: Place, value: str, conditions: Conditions) -> Entry | Refusal:
        """Must write a value under a new version if the conditions hold, and nothing else."""
        ...

    async def delete(self, place: Place, expected: int | None) -> int | Refusal:
        """Must return the version that was deleted, 0 if the key was not there and might have been."""
        ...

    async def page(
        self, tenant: str, namespace: str, prefix: str, after: str | None, size: int
    ) -> tuple[list[Entry], bool]:
        """Must return the first entries under the prefix in byte order of their keys, beyond `after`.

        Must return `size` if as many are there, unless the values are `MAX_PAGE_BYTES` or more: then fewer,
        but one at least, and True, since more may follow.
        """
        ...

    async def erase(self, tenant: str) -> None:
        """Must remove every trace of a tenant, leases too; what is written meanwhile may stay."""
        ...

    async def answers(self) -> str:
        """Must return a short word about the engine, or raise."""
        ...


class Leases(Protocol):
    """Leases have names of their own beside the keys; the same holds for them as for keys."""

    async def acquire(
        self, place: Place, owner: str | None, ttl: float, token: int | None
    ) -> Holder:
        """Must take a lease that nobody holds, under a new token; with `token`, prolong one held under it.

        If it is held otherwise it must change nothing, and tell by whom.
        """
        ...

    async def release(self, place: Place, token: int) -> bool:
        """Must end a lease that is held under `token`, and tell whether there was one."""
        ...


class CacheEngine(Cache, Leases, Protocol):
    """What every engine is."""


MAX_PAGE_BYTES = 16 * 1024 * 1024
