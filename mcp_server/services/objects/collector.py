"""The collector: deletes blobs that no object names any more, in the background of every process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.errors import AppError
from mcp_server.storage.objects import BlobStore

logger = logging.getLogger(__name__)

BATCH = 500

# `named` guards the one case in which garbage is none: a process that stood still between its put and
# its commit for longer than the orphan age, so that a sweep took its blob for an orphan.
_DUE = text(
    """
    select blob, exists (select from objects where objects.blob = garbage_blobs.blob) as named
    from garbage_blobs where since < now() - make_interval(secs => :grace)
    order by since limit :batch
    """
)
_FORGET = text("delete from garbage_blobs where blob = any(cast(:blobs as text[]))")
_MARK = text(
    """
    insert into garbage_blobs (blob)
    select found.blob from unnest(cast(:blobs as text[])) as found (blob)
    where not exists (select from objects where objects.blob = found.blob)
    on conflict do nothing returning blob
    """
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """`grace` is how long a reader may take to open what it found; the rest is in its name."""

    every: timedelta = timedelta(minutes=1)
    grace: timedelta = timedelta(minutes=10)
    sweep_every: timedelta = timedelta(hours=1)
    orphan_age: timedelta = timedelta(hours=1)


DEFAULT_SCHEDULE = Schedule()


@asynccontextmanager
async def collecting(
    control: AsyncEngine, blobs: BlobStore, schedule: Schedule = DEFAULT_SCHEDULE
) -> AsyncGenerator[None]:
    """Collect while the context is open; any number of processes may do so at once.

    Deleting a blob twice is harmless and keys are never used again, so nothing is locked.
    """
    collector = asyncio.create_task(_collect_forever(control, blobs, schedule), name="collector")
    try:
        yield
    finally:
        collector.cancel()
        await asyncio.wait({collector})


async def _collect_forever(control: AsyncEngine, blobs: BlobStore, schedule: Schedule) -> None:
    sweep_at = time.monotonic()
    while True:
        # A pause first: a process that has just started has better things to do.
        await asyncio.sleep(schedule.every.total_seconds())
        try:
            if time.monotonic() >= sweep_at:
                await sweep_orphans(control, blobs, schedule.orphan_age)
                sweep_at = time.monotonic() + schedule.sweep_every.total_seconds()
            await collect_garbage(control, blobs, schedule.grace)
        except (AppError, SQLAlchemyError, OSError) as error:
            logger.warning("blobs are not collected now, the next round tries again: %s", error)


async def collect_garbage(control: AsyncEngine, blobs: BlobStore, grace: timedelta) -> int:
    """Delete the blobs that have been garbage for longer than `grace`; return how many."""
    collected = 0
    while True:
        due = {"grace": grace.total_seconds(), "batch": BATCH}
        async with control.connect() as connection:
            rows = (await connection.execute(_DUE, due)).all()
        if not rows:
            return collected
        for row in rows:
            if not row.named:
                await blobs.delete(row.blob)
                collected += 1
        # After the blobs: a crash in between costs a second, idle delete and loses none.
        async with control.begin() as tx:
            await tx.execute(_FORGET, {"blobs": [row.blob for row in rows]})


async def sweep_orphans(control: AsyncEngine, blobs: BlobStore, age: timedelta) -> int:
    """Mark blobs older than `age` that no object names as garbage; return how many.

    They are what puts left behind that died, or whose commit failed, after the blob was stored.
    """
    before = datetime.now(UTC) - age
    await blobs.discard_unfinished(before)
    marked = 0
    batch: list[str] = []
    async for blob in blobs.list():
        if blob.written_at < before:
            batch.append(blob.key)
        if len(batch) == BATCH:
            marked += await _mark(control, batch)
            batch.clear()
    return marked + await _mark(control, batch)


async def _mark(control: AsyncEngine, batch: Sequence[str]) -> int:
    if not batch:
        return 0
    async with control.begin() as tx:
        return len((await tx.execute(_MARK, {"blobs": list(batch)})).all())
