"""The ordered record of changes: written in the transaction of the change, read below the oldest open one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, cast, insert, literal, select, text, tuple_
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import InvalidInput, Unavailable
from mcp_server.storage.sql.schema import Xid8, journal, journal_floors

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
# What a unit of work that broke off will still write waits for it, whoever comes.
_INSERT_FREE = text(
    """
    insert into journal
        (tenant, subject, verb, uri, version, prev_version, run, step, labels)
    select :tenant, :subject, :verb, :uri, :version, :prev_version, :run, :step, :labels
    where not exists (select from unit_holds where tenant = :tenant and uri = :uri)
    """
).bindparams(
    *(
        bindparam(name, type_=journal.c[name].type)
        for name in (
            "tenant",
            "subject",
            "verb",
            "uri",
            "version",
            "prev_version",
            "run",
            "step",
            "labels",
        )
    )
)
logger = logging.getLogger(__name__)

DAYS_AHEAD = 2
LOOSE_BATCH = 10_000
# Two numbers of 64 bits; beyond 4300 digits Python refuses to read one.
MOST_POSITION = 40
# Above every entry of a transaction.
END_SEQ = 2**62
PARTITION_SECONDS = 6 * 3600.0
_BELOW_OPEN = text("xid < pg_snapshot_xmin(pg_current_snapshot())")
_SOURCES = {
    "after": "next_after of an earlier call",
    "change": "the field change of what changes returns",
}
# "jour" in ASCII: one process at a time changes the partitions.
_LOCK = text(f"select pg_advisory_xact_lock({0x6A6F7572})")
_HORIZON = text("select pg_snapshot_xmin(pg_current_snapshot())::text")
# The newest entry of each tenant that is not kept any more: who was there, or further, missed nothing.
_KEEP_FLOORS = """
    insert into journal_floors (tenant, xid, seq)
    select distinct on (tenant) tenant, xid, seq from {gone} gone
    where exists (select from tenants where name = tenant) order by tenant, xid desc, seq desc
    on conflict (tenant) do update set xid = excluded.xid, seq = excluded.seq
    where (excluded.xid, excluded.seq) > (journal_floors.xid, journal_floors.seq)
"""
_FORGET_LOOSE = text(
    f"""
    with gone as (
        delete from journal_default where ctid = any (array(
            select ctid from journal_default
            where at < now() - make_interval(secs => :seconds) limit {LOOSE_BATCH}))
        returning tenant, xid, seq)
    {_KEEP_FLOORS.format(gone="gone")}
    """  # noqa: S608  names of ours
)
_OLD_PARTITIONS = text(
    """
    select relname::text from pg_inherits join pg_class on pg_class.oid = inhrelid
    where inhparent = 'journal'::regclass and relname ~ '^journal_[0-9]{8}$'
        and to_date(right(relname, 8), 'YYYYMMDD') + 1
            <= (now() - make_interval(secs => :seconds)) at time zone 'utc'
    order by relname
    """
)


async def append(connection: AsyncConnection, **entry: Any) -> None:
    """Write one entry in the caller's transaction, after the change and under its locks.

    Raises:
        Unavailable: a unit of work that broke off is about to write there.
    """
    if not (await connection.execute(_INSERT_FREE, entry)).rowcount:
        raise Unavailable(
            f"a unit of work that wrote {entry['uri']} broke off and is being finished; try again in "
            "a few seconds"
        )


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
    """Return up to `limit` entries after a position, oldest first, and the position to go on from.

    Only transactions older than every open one are shown, so an entry that commits late is never
    skipped. The position is `XID.SEQ`, as given out; None starts with the oldest entry that is kept.

    Raises:
        InvalidInput: `after` is no position, or entries after it are not kept any more.
    """
    start = None if after is None else parse_position(after)
    query = select(journal).where(journal.c.tenant == tenant)
    query = query.order_by(journal.c.xid, journal.c.seq).limit(limit)
    if start is not None:
        query = query.where(later_than(start))
    if where is not None:
        query = query.where(where)
    async with control.connect() as connection:
        horizon = await connection.scalar(_HORIZON)
        settled = query.where(journal.c.xid < cast(literal(horizon), Xid8()))
        rows = [dict(row) for row in (await connection.execute(settled)).mappings()]
        if start is not None:  # after the entries: a day that went away in between is noticed
            await _refuse_forgotten(connection, tenant, start)
    if len(rows) == limit:
        return rows, f"{rows[-1]['xid']}.{rows[-1]['seq']}"
    # Everything below the horizon was looked at, however little of it was wanted.
    xid, seq = max(start or (0, 0), (int(horizon or 0) - 1, END_SEQ))
    return rows, f"{xid}.{seq}"


async def _refuse_forgotten(
    connection: AsyncConnection, tenant: str, position: tuple[int, int]
) -> None:
    query = select(journal_floors.c.xid, journal_floors.c.seq)
    floor = (await connection.execute(query.where(journal_floors.c.tenant == tenant))).first()
    if floor is not None and position < (int(floor.xid), int(floor.seq)):
        raise InvalidInput(
            "after: entries that follow this position are so old that they are not kept any more "
            "(ISTHMUS_JOURNAL_DAYS); look at the data itself, then follow the changes from a call "
            "without after",
            param="after",
        )


async def read_everything(
    control: AsyncEngine, after: tuple[int, int], limit: int
) -> tuple[Sequence[Row[*tuple[Any, ...]]], tuple[int, int]]:
    """Return `tenant`, `uri` and `labels` of all entries after a position, and the position after them."""
    query = (
        select(
            *(journal.c.xid, journal.c.seq), *(journal.c.tenant, journal.c.uri, journal.c.labels)
        )
        .where(_BELOW_OPEN, later_than(after))
        .order_by(journal.c.xid, journal.c.seq)
        .limit(limit)
    )
    async with control.connect() as connection:
        rows = (await connection.execute(query)).all()
    last = (int(rows[-1].xid), int(rows[-1].seq)) if rows else after
    return rows, last


async def read_tenant(
    tx: AsyncConnection, tenant: str, after: tuple[int, int], limit: int
) -> Sequence[Row[Any]]:
    """Return up to `limit` of a tenant's entries after a position, in the caller's transaction."""
    query = (
        select(journal)
        .where(journal.c.tenant == tenant, _BELOW_OPEN, later_than(after))
        .order_by(journal.c.xid, journal.c.seq)
        .limit(limit)
    )
    return (await tx.execute(query)).all()


async def end(control: AsyncEngine) -> tuple[int, int]:
    """Return the position before which nothing new can appear."""
    async with control.connect() as connection:
        xmin = await connection.scalar(_HORIZON)
    return int(xmin or 0) - 1, END_SEQ


def later_than(position: tuple[int, int]) -> ColumnElement[bool]:
    """Return the condition on the journal's rows that they come after a position."""
    xid, seq = position
    return tuple_(journal.c.xid, journal.c.seq) > tuple_(
        cast(literal(str(xid)), Xid8()), literal(seq)
    )


def parse_position(after: str, param: str = "after") -> tuple[int, int]:
    """Return the position that a text names.

    Raises:
        InvalidInput: it is none.
    """
    xid, _, seq = after.partition(".")
    plain = xid.isdecimal() and seq.isdecimal() and len(after) <= MOST_POSITION
    if not plain or int(xid) >= 2**64 or int(seq) >= 2**63:
        raise InvalidInput(
            f"{param}: {after[:40]!r} is no position; pass {_SOURCES[param]}",
            param=param,
        )
    return int(xid), int(seq)


async def ensure_partitions(control: AsyncEngine, today: date | None = None) -> None:
    """Make the daily partitions from today on; several processes may do it at once.

    A day of which entries came before its partition stays where they are: with those of no partition.
    """
    first = today or datetime.now(UTC).date()
    for offset in range(DAYS_AHEAD):
        day = first + timedelta(days=offset)
        statement = text(
            f"create table if not exists journal_{day:%Y%m%d} partition of journal"
            f" for values from ('{day}T00:00:00Z') to ('{day + timedelta(days=1)}T00:00:00Z')"
        )
        try:
            async with control.begin() as tx:
                await tx.execute(_LOCK)
                if await _missing(tx, f"journal_{day:%Y%m%d}"):
                    await tx.execute(statement)
        except IntegrityError:
            logger.info("journal: the entries of %s began without a partition, and go on so", day)


async def _missing(connection: AsyncConnection, table: str) -> bool:
    return await connection.scalar(text("select to_regclass(:t) is null"), {"t": table}) is True


async def drop_old(control: AsyncEngine, days: float) -> int:
    """Forget whole days that ended `days` ago, by the database's clock; return how many partitions went.

    Entries that found no partition of their own go by their age, some thousands a call.
    """
    age = {"seconds": days * 86_400}
    async with control.connect() as connection:
        old = (await connection.execute(_OLD_PARTITIONS, age)).scalars().all()
    for name in old:
        async with control.begin() as tx:
            await tx.execute(_LOCK)
            # Dropping waits for readers and writers, and those who come later wait behind it.
            await tx.execute(text("set local lock_timeout = '1s'"))
            if not await _missing(tx, name):
                await tx.execute(text(_KEEP_FLOORS.format(gone=name)))
                await tx.execute(text(f"drop table {name}"))
    async with control.begin() as tx:
        await tx.execute(_LOCK)
        await tx.execute(_FORGET_LOOSE, age)
    return len(old)


@asynccontextmanager
async def keeping_partitions(control: AsyncEngine, days: float) -> AsyncGenerator[None]:
    """Make the daily partitions now, and every few hours while the context is open; drop what is old."""
    await ensure_partitions(control)

    async def keep() -> None:
        while True:
            try:
                await ensure_partitions(control)
                await drop_old(control, days)
            except (SQLAlchemyError, OSError) as error:
                # Entries go to the default partition meanwhile: nothing is refused.
                logger.warning("journal: its days are not kept in order yet (%s)", error)
            await asyncio.sleep(PARTITION_SECONDS)

    keeper = asyncio.create_task(keep(), name="journal-partitions")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
