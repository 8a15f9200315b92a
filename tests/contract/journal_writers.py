"""Writers of the journal under stress: many at once, in transactions that last, overlap, and now and then roll back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal

KEYS = 40
# One in so many transactions lasts longer than a follower waits after a wake-up.
LONG_ONE_IN, LONG_SECONDS, SHORT_SECONDS = 15, 1.5, 0.02

_LOCK = text("select version from stress where key = :key for update")
_WRITE = text(
    "update stress set version = next_version(:tenant) where key = :key returning version"
)


@dataclass(frozen=True)
class Written:
    """One entry that was committed."""

    uri: str
    version: int
    prev_version: int | None


@dataclass
class Writers:
    """Each transaction takes a few keys, in one order so that none waits in a circle, and dawdles."""

    pool: AsyncEngine
    principal: Principal
    seed: int
    written: list[Written] = field(default_factory=list[Written])
    rolled_back: int = 0

    async def run(self, count: int, seconds: float) -> None:
        """Write with `count` writers at once for so long."""
        end = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as writers:
            for number in range(count):
                writers.create_task(self._writer(random.Random(self.seed + number), end))

    async def _writer(self, dice: random.Random, end: float) -> None:
        while asyncio.get_running_loop().time() < end:
            await self._transaction(dice)

    async def _transaction(self, dice: random.Random) -> None:
        keys = sorted(dice.sample(range(KEYS), dice.choice([1, 1, 2, 4])))
        dawdle = LONG_SECONDS if not dice.randrange(LONG_ONE_IN) else SHORT_SECONDS
        entries: list[Written] = []
        async with self.pool.connect() as tx:
            await tx.begin()
            if dice.random() < 0.5:  # the mark of an idempotency key is written before the lock
                await tx.execute(text("select pg_current_xact_id()"))
            for key in keys:
                await asyncio.sleep(dice.random() * dawdle / len(keys))
                entries.append(await self._write(tx, key))
            await asyncio.sleep(dice.random() * dawdle)
            if dice.random() < 0.1:
                await tx.rollback()
                self.rolled_back += 1
                return
            await tx.commit()
        self.written += entries

    async def _write(self, tx: AsyncConnection, key: int) -> Written:
        before = await tx.scalar(_LOCK, {"key": key})
        version: Any = await tx.scalar(_WRITE, {"key": key, "tenant": self.principal.tenant})
        entry = Written(f"kv://stress/{key}", version, before)
        await journal.append(
            tx,
            tenant=self.principal.tenant,
            subject=self.principal.subject,
            verb="write",
            uri=entry.uri,
            version=version,
            prev_version=before,
            run=None,
            step=None,
            labels=[],
        )
        return entry


@asynccontextmanager
async def open_writers(
    pool: AsyncEngine, principal: Principal, seed: int
) -> AsyncGenerator[Writers]:
    """Yield the writers of a table of keys of their own."""
    async with pool.begin() as tx:
        await tx.execute(text("create table stress (key int primary key, version bigint)"))
        await tx.execute(
            text("insert into stress (key) select generate_series(0, :n - 1)"), {"n": KEYS}
        )
    try:
        yield Writers(pool, principal, seed)
    finally:
        async with pool.begin() as tx:
            await tx.execute(text("drop table stress"))


def broken_chains(seen: list[Written]) -> list[Written]:
    """Return the entries that do not follow the one before of their URI: missed, doubled or in disorder."""
    last: dict[str, int | None] = {}
    broken: list[Written] = []
    for entry in seen:
        if last.get(entry.uri) != entry.prev_version:
            broken.append(entry)
        last[entry.uri] = entry.version
    return broken
