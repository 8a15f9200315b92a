"""Erases a tenant with everything derived from its data, and proves what is left of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.audit import Audit
from mcp_server.auth.principal import DEFAULT_TENANT, OWNER
from mcp_server.errors import Conflict, NotFound
from mcp_server.services import tenant_rows
from mcp_server.storage.objects import BlobStore

logger = logging.getLogger(__name__)

# Doors know a revoked key within a second, and write their audit of what it did within another.
LAST_CALLS_SECONDS = 2.5
ROUNDS = 5

_MARK = text(
    "update tenants set erasing_at = coalesce(erasing_at, now()) where name = :tenant returning id"
)
_REVOKE = text(
    "update api_keys set revoked_at = now() where tenant = :tenant and revoked_at is null"
)
_DISCARD = text(
    """
    insert into garbage_blobs (blob) select unnest(cast(:blobs as text[]))
    on conflict (blob) do update set since = now()
    """
)
_STILL_NAMED = text(
    "select blob from unnest(cast(:blobs as text[])) as found (blob) where blob_is_named(blob)"
)
_COLLECTED = text("delete from garbage_blobs where blob = any(cast(:blobs as text[]))")
_FORGET = text("delete from tenants where name = :tenant")

Tell = Callable[[str], None]


class Derived(Protocol):
    """Where else a tenant's data is: the tenants' database, a vector engine, a cache."""

    name: str

    async def erase(self, tenant: str) -> None:
        """Delete all of the tenant; may be repeated."""
        ...

    async def left(self, tenant: str) -> dict[str, int]:
        """Count what is there of the tenant, by kind."""
        ...


class Erasure:
    """Every step may be repeated: an erasure that was interrupted is begun again and goes on."""

    def __init__(
        self,
        control: AsyncEngine,
        blobs: BlobStore,
        elsewhere: Sequence[Derived],
        audit: Audit,
        last_calls: float = LAST_CALLS_SECONDS,
    ) -> None:
        self._control, self._blobs = control, blobs
        self._elsewhere = elsewhere
        self._audit = audit
        self._last_calls = last_calls

    async def erase(self, tenant: str, tell: Tell = lambda _: None) -> dict[str, int]:
        """Erase a tenant; return how many rows and blobs went, by kind. `tell` hears of each part.

        Its keys are dead first, so nothing new comes in; its name is free again at the end.

        Raises:
            NotFound: there is no such tenant. Unavailable: an engine does not answer; begin again.
            Conflict: it is the owner's tenant, or something still writes to it.
        """
        if tenant == DEFAULT_TENANT:
            raise Conflict(
                f"tenant {tenant!r} is the local owner's and cannot be erased; delete DATA_DIR, or the "
                "databases, instead"
            )
        begun = time.perf_counter_ns()
        async with self._control.begin() as tx:
            number = await tx.scalar(_MARK, {"tenant": tenant})
            if number is None:
                raise NotFound(f"tenant {tenant!r} does not exist")
            await tx.execute(_REVOKE, {"tenant": tenant})
        tell("keys")
        await asyncio.sleep(self._last_calls)
        gone: dict[str, int] = {}
        for place in self._elsewhere:
            await place.erase(tenant)
            tell(place.name)
        for turn in range(ROUNDS):  # what was under way may have written once more
            await asyncio.sleep(self._last_calls * bool(turn))
            gone["blobs"] = gone.get("blobs", 0) + await self._rows(tenant, gone, tell)
            if not any((await self._left_in_control(tenant)).values()):
                break
        else:
            raise Conflict(f"something still writes to tenant {tenant!r}; stop it and begin again")
        for place in self._elsewhere:  # whose last writes may have ended after the first time
            await place.erase(tenant)
        async with self._control.begin() as tx:
            await tx.execute(text(f"drop sequence if exists version_{int(number)}"))
            await tx.execute(_FORGET, {"tenant": tenant})
        micros = (time.perf_counter_ns() - begun) // 1000
        self._audit.record(OWNER, "admin", f"tenant://{tenant}", "ok", micros, ("erased",))
        return gone

    async def left(self, tenant: str) -> dict[str, int]:
        """Count everything that is there of a tenant, by place: all zero after an erasure."""
        async with self._control.connect() as tx:
            found = {
                f"control: {name}": n for name, n in (await tenant_rows.count(tx, tenant)).items()
            }
        for place in self._elsewhere:
            found |= {f"{place.name}: {kind}": n for kind, n in (await place.left(tenant)).items()}
        return found

    async def unnamed_blobs(self) -> int:
        """Count the blobs that no row names: whose they were, nobody can tell any more."""
        count = 0
        batch: list[str] = []
        async for blob in self._blobs.list():
            batch.append(blob.key)
            if len(batch) == tenant_rows.BATCH:
                count += await self._count_unnamed(batch)
                batch.clear()
        return count + await self._count_unnamed(batch)

    async def _count_unnamed(self, blobs: list[str]) -> int:
        async with self._control.connect() as tx:
            named = (await tx.execute(_STILL_NAMED, {"blobs": blobs})).all()
        return len(blobs) - len(named)

    async def _left_in_control(self, tenant: str) -> dict[str, int]:
        async with self._control.connect() as tx:
            found = await tenant_rows.count(tx, tenant)
        return {
            name: n for name, n in found.items() if name not in {"tenants", *tenant_rows.COLLECTED}
        }

    async def _rows(self, tenant: str, gone: dict[str, int], tell: Tell) -> int:
        """Delete every row, then the blobs that only these named; return how many blobs."""
        async with self._control.begin() as tx:
            blobs = sorted(await tenant_rows.blobs(tx, tenant))
            # First: whatever happens now, the collector takes them when nothing names them any more.
            await tx.execute(_DISCARD, {"blobs": blobs})
            tables = await tenant_rows.tenant_tables(tx)
        for table in (table for table in tables if table.name not in tenant_rows.COLLECTED):
            while True:
                async with self._control.begin() as tx:
                    count = await tenant_rows.delete_batch(tx, table, tenant)
                gone[table.name] = gone.get(table.name, 0) + count
                if count < tenant_rows.BATCH:
                    break
            tell(table.name)
        return await self._collect(blobs)

    async def _collect(self, blobs: list[str]) -> int:
        async with self._control.connect() as tx:
            named = set(await tx.scalars(_STILL_NAMED, {"blobs": blobs}))
        free = [blob for blob in blobs if blob not in named]
        for blob in free:
            await self._blobs.delete(blob)
        async with self._control.begin() as tx:
            await tx.execute(_COLLECTED, {"blobs": free})
        return len(free)
