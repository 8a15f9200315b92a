"""The ordered record of changes: written in the transaction of the change, read below the oldest open one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, cast, insert, literal, select, text, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import InvalidInput
from mcp_server.storage.sql.schema import Xid8, journal

_INSERT = insert(journal).values(
    tenant=bindparam("tenant"),
    subject=bindparam("subject"),
    verb=bindparam("verb"),
    uri=bindparam("uri"),
    version=bindparam("version"),
    prev_version=bindparam("prev_version"),
    run=bindparam("run"),
    step=bindparam("step"),
    labels=bindparam("labels"),
)
logger = logging.getLogger(__name__)

DAYS_AHEAD = 2
# Two numbers of 64 bits; beyond 4300 digits Python refuses to read one.
MOST_POSITION = 40
PARTITION_SECONDS = 6 * 3600.0
_BELOW_OPEN = text("xid < pg_snapshot_xmin(pg_current_snapshot())")


async def append(connection: AsyncConnection, **entry: Any) -> None:
    """Write one entry in the caller's transaction."""
    await connection.execute(_INSERT, entry)


async def append_all(connection: AsyncConnection, entries: list[dict[str, Any]]) -> None:
    """Write entries in the caller's transaction, in their order, in one round trip."""
    await connection.execute(_INSERT, entries)


async def read(
    control: AsyncEngine,
    tenant: str,
    after: str | None,
    limit: int,
    where: ColumnElement[bool] | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return up to `limit` entries after a position, oldest first, and the position after them.

    Only transactions older than every open one are shown, so an entry that commits late is never
    skipped. The position is `XID.SEQ`, as given out; None starts at the beginning.

    Raises:
        InvalidInput: `after` is no position.
    """
    query = (
        select(journal)
        .where(journal.c.tenant == tenant, _BELOW_OPEN)
        .order_by(journal.c.xid, journal.c.seq)
        .limit(limit)
    )
    if after is not None:
        query = query.where(_after(parse_position(after)))
    if where is not None:
        query = query.where(where)
    async with control.connect() as connection:
        rows = [dict(row) for row in (await connection.execute(query)).mappings()]
    last = f"{rows[-1]['xid']}.{rows[-1]['seq']}" if rows else after
    return rows, last


async def read_everything(
    control: AsyncEngine, after: tuple[int, int], limit: int
) -> tuple[list[tuple[str, str]], tuple[int, int]]:
    """Return `(tenant, uri)` of every tenant's entries after a position, and the position after them."""
    query = (
        select(journal.c.xid, journal.c.seq, journal.c.tenant, journal.c.uri)
        .where(_BELOW_OPEN, _after(after))
        .order_by(journal.c.xid, journal.c.seq)
        .limit(limit)
    )
    async with control.connect() as connection:
        rows = (await connection.execute(query)).all()
    last = (int(rows[-1].xid), int(rows[-1].seq)) if rows else after
    return [(row.tenant, row.uri) for row in rows], last


async def read_tenant(
    tx: AsyncConnection, tenant: str, after: tuple[int, int], limit: int
) -> Sequence[Row[Any]]:
    """Return up to `limit` of a tenant's entries after a position, in the caller's transaction."""
    query = (
        select(journal)
        .where(journal.c.tenant == tenant, _BELOW_OPEN, _after(after))
        .order_by(journal.c.xid, journal.c.seq)
        .limit(limit)
    )
    return (await tx.execute(query)).all()


async def end(control: AsyncEngine) -> tuple[int, int]:
    """Return the position before which nothing new can appear."""
    async with control.connect() as connection:
        xmin = await connection.scalar(text("select pg_snapshot_xmin(pg_current_snapshot())::text"))
    return int(xmin or 0) - 1, 2**62


def _after(position: tuple[int, int]) -> ColumnElement[bool]:
    xid, seq = position
    return tuple_(journal.c.xid, journal.c.seq) > tuple_(
        cast(literal(str(xid)), Xid8()), literal(seq)
    )


def parse_position(after: str) -> tuple[int, int]:
    xid, _, seq = after.partition(".")
    plain = xid.isdecimal() and seq.isdecimal() and len(after) <= MOST_POSITION
    if not plain or int(xid) >= 2**64 or int(seq) >= 2**63:
        raise InvalidInput(
            f"after: {after[:40]!r} is no position; pass next_after of an earlier call",
            param="after",
        )
    return int(xid), int(seq)


async def ensure_partitions(control: AsyncEngine, today: date | None = None) -> None:
    """Make the daily partitions from today on; several processes may do it at once."""
    first = today or datetime.now(UTC).date()
    for offset in range(DAYS_AHEAD):
        day = first + timedelta(days=offset)
        statement = text(
            f"create table if not exists journal_{day:%Y%m%d} partition of journal"
            f" for values from ('{day}T00:00:00Z') to ('{day + timedelta(days=1)}T00:00:00Z')"
        )
        async with control.begin() as tx:
            await tx.execute(text("select pg_advisory_xact_lock(:key)"), {"key": 0x6A6F7572})
            if await _missing(tx, f"journal_{day:%Y%m%d}"):
                await tx.execute(statement)


async def _missing(connection: AsyncConnection, table: str) -> bool:
    return await connection.scalar(text("select to_regclass(:t) is null"), {"t": table}) is True


@asynccontextmanager
async def keeping_partitions(control: AsyncEngine) -> AsyncGenerator[None]:
    """Make the daily partitions now, and every few hours while the context is open."""
    await ensure_partitions(control)

    async def keep() -> None:
        while True:
            await asyncio.sleep(PARTITION_SECONDS)
            try:
                await ensure_partitions(control)
            except (SQLAlchemyError, OSError) as error:
                # Entries go to the default partition meanwhile: nothing is refused.
                logger.warning("journal: the next day's partition is not made yet (%s)", error)

    keeper = asyncio.create_task(keep(), name="journal-partitions")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
