"""The intent of a unit of work: the row that outlives the process, and what it holds for the unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.services.units.parts import OpenedPart, Section
from mcp_server.services.writes import Record
from mcp_server.storage.sql.unit_tables import unit_blobs, unit_holds, units

# A unit that goes on has its row locked; younger ones may not have come so far.
STALE_SECONDS = 5.0
BATCH = 100

# What this transaction has journalled, except of rows, which are another database's.
_CHANGED = text(
    """
    select distinct uri from journal
    where tenant = :tenant and xid >= pg_current_xact_id()
        and journal.xmin = pg_current_xact_id()::xid and not starts_with(uri, 'sql://')
    """
)
_STALE = text(
    """
    select id from units where made_at < clock_timestamp() - make_interval(secs => :seconds)
    order by made_at limit :batch for update skip locked
    """
)
_OF_KEY = text("select id from units where tenant = :tenant and key = :key for update skip locked")


@dataclass(frozen=True, slots=True)
class IntendedWrite:
    """One part that changes something, as its draft recorded it."""

    section: Section
    index: int
    uri: str
    content: dict[str, Any]
    blobs: tuple[str, ...]

    @property
    def record(self) -> Record:
        return Record(self.content, self.blobs)


@dataclass(frozen=True, slots=True)
class Intent:
    """All that another process needs to finish a unit. `tables` are the URIs of the rows' tables."""

    id: str
    principal: Principal
    key: str | None
    tables: tuple[str, ...]
    writes: tuple[IntendedWrite, ...]
    answer: dict[str, Any]

    def content(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["principal"]["scopes"] = sorted(self.principal.scopes)
        return plain

    @classmethod
    def of_content(cls, content: dict[str, Any]) -> Intent:
        who = content["principal"]
        principal = Principal(
            who["tenant"], who["subject"], frozenset(who["scopes"]), who["key_id"]
        )
        writes = [
            IntendedWrite(**item | {"blobs": tuple(item["blobs"])}) for item in content["writes"]
        ]
        return cls(
            content["id"],
            principal,
            content["key"],
            tuple(content["tables"]),
            tuple(writes),
            content["answer"],
        )


async def changed_by(tx: AsyncConnection, tenant: str) -> set[str]:
    """Return the URIs of what `tx` has changed so far, rows aside."""
    return set((await tx.execute(_CHANGED, {"tenant": tenant})).scalars())


def writes_of(opened: Sequence[OpenedPart], changed: set[str]) -> tuple[IntendedWrite, ...]:
    """Return what the drafts recorded of those parts that changed something."""
    writes: list[IntendedWrite] = []
    for item in opened:
        part = item.part
        if part.draft.uri in changed:
            record = part.draft.record()
            writes.append(
                IntendedWrite(
                    part.section, part.index, part.draft.uri, record.content, record.blobs
                )
            )
    return tuple(writes)


async def store(tx: AsyncConnection, intent: Intent, key: str | None) -> None:
    """Store an intent; from the commit of `tx` on nobody else writes what it will.

    Raises:
        sqlalchemy.exc.IntegrityError: another unit of the same key is not settled yet.
    """
    tenant = intent.principal.tenant
    row = {"id": intent.id, "tenant": tenant, "key": key, "content": intent.content()}
    await tx.execute(insert(units).values(row))
    if intent.writes:
        holds = [{"tenant": tenant, "uri": item.uri, "unit": intent.id} for item in intent.writes]
        await tx.execute(insert(unit_holds), holds)
    blobs = [{"blob": blob, "unit": intent.id} for item in intent.writes for blob in item.blobs]
    if blobs:
        await tx.execute(insert(unit_blobs), blobs)


async def take_away(tx: AsyncConnection, unit: str) -> bool:
    """Delete an intent with all that it holds when `tx` commits; tell whether it was there.

    Whoever else would settle the unit waits for `tx`.
    """
    return (await tx.execute(delete(units).where(units.c.id == unit))).rowcount > 0


async def load(control: AsyncEngine, unit: str) -> Intent | None:
    async with control.connect() as connection:
        content = await connection.scalar(select(units.c.content).where(units.c.id == unit))
    return None if content is None else Intent.of_content(content)


async def left_behind(control: AsyncEngine) -> list[str]:
    """Return units that nobody goes on with."""
    async with control.begin() as tx:
        found = await tx.execute(_STALE, {"seconds": STALE_SECONDS, "batch": BATCH})
        return list(found.scalars())


async def of_key(control: AsyncEngine, tenant: str, key: str) -> str | None:
    """Return the unit of an earlier call with the same key, if nobody goes on with it."""
    async with control.begin() as tx:
        return await tx.scalar(_OF_KEY, {"tenant": tenant, "key": key})
