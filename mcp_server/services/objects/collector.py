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
from mcp_server.services.objects import file_upload_rows, upload_rows
from mcp_server.services.objects.expiry import Leave, nowhere, purge_expired
from mcp_server.services.objects.versions import purge_versions
from mcp_server.storage.objects import BlobStore

logger = logging.getLogger(__name__)

BATCH = 500

# Garbage is named if another row shares the blob, which then discards it again when it goes itself; and
# if a process stood still between its put and its commit so long that a sweep took it for an orphan.
_DUE = text(
    """
    select blob, since, blob_is_named(blob) as named
    from garbage_blobs where since < now() - make_interval(secs => :grace)
    order by since limit :batch
    """
)
# Not what was discarded again meanwhile.
_FORGET = text(
    "delete from garbage_blobs where blob = any(cast(:blobs as text[])) and since <= :newest"
)
_MARK = text(
    """
    insert into garbage_blobs (blob)
    select found.blob from unnest(cast(:blobs as text[])) as found (blob)
    where not blob_is_named(found.blob)
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
    control: AsyncEngine,
    blobs: BlobStore,
    schedule: Schedule = DEFAULT_SCHEDULE,
    undo_days: float = 0.0,
    leave: Leave = nowhere,
) -> AsyncGenerator[None]:
    """Collect while the context is open; any number of processes may do so at once.

    Versions are purged that were replaced more than `undo_days` ago; `leave` is asked before an object
    that expired goes. Deleting a blob twice is harmless and keys are never used again, so nothing is locked.
    """
    work = _collect_forever(control, blobs, schedule, undo_days, leave)
    collector = asyncio.create_task(work, name="collector")
    try:
        yield
    finally:
        collector.cancel()
        await asyncio.wait({collector})


async def _collect_forever(
    control: AsyncEngine, blobs: BlobStore, schedule: Schedule, undo_days: float, leave: Leave
) -> None:
    sweep_at = time.monotonic()
    while True:
        # A pause first: a process that has just started has better things to do.
        await asyncio.sleep(schedule.every.total_seconds())
        try:
            if time.monotonic() >= sweep_at:
                await sweep_orphans(control, blobs, schedule.orphan_age)
                sweep_at = time.monotonic() + schedule.sweep_every.total_seconds()
            await purge_versions(control, undo_days)
            await upload_rows.purge(control)
            await file_upload_rows.purge(control)
            await purge_expired(control, leave)
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
            seen = {"blobs": [row.blob for row in rows], "newest": rows[-1].since}
            await tx.execute(_FORGET, seen)


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
