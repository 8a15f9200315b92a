"""The manifest: the rows that say which objects exist, and which blobs nobody needs any more."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC
from typing import Any

from sqlalchemy import Row, delete, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import DEFAULT_TENANT
from mcp_server.operation import Operation
from mcp_server.services.objects.addresses import Address
from mcp_server.services.objects.conditions import Guard
from mcp_server.storage.objects import Blob
from mcp_server.storage.sql.object_tables import object_versions
from mcp_server.storage.sql.schema import garbage_blobs, objects, tenants

# What a version keeps of the row that it was.
_KEPT = [column.name for column in object_versions.c if column.name != "replaced_at"]
# What has expired is not there, though it was not purged yet.
LIVING = or_(objects.c.expires_at.is_(None), objects.c.expires_at > func.now())


@dataclass(frozen=True, slots=True)
class Payload:
    """What an object is, beside its name; `id` is for one that comes back under its old one."""

    blob: str
    size: int
    etag: str
    sha256: str
    content_type: str
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    tags: dict[str, str] = field(default_factory=dict[str, str])
    id: str | None = None

    @classmethod
    def of_blob(
        cls, blob: Blob, content_type: str, metadata: dict[str, str], tags: dict[str, str]
    ) -> Payload:
        return cls(blob.key, blob.size, blob.md5, blob.sha256, content_type, metadata, tags)

    @classmethod
    def of_row(cls, row: Row[Any]) -> Payload:
        return cls(
            *(row.blob, row.size, row.etag, row.sha256),
            *(row.content_type, row.metadata, row.tags, row.id),
        )

    def columns(self) -> dict[str, Any]:
        """Return what is written over an object that is there: it keeps its id."""
        columns = asdict(self)
        del columns["id"]
        return columns


async def blob_namespace(control: AsyncEngine) -> str:
    """Return a name for this control database under which the engines keep its blobs.

    A sweep deletes what no row names, so two databases must never share one place: not after
    ISTHMUS_DATABASE_URL has changed, nor in one S3 bucket. The moment at which the database was made
    tells them apart and stays the same through dump and restore.
    """
    async with control.connect() as connection:
        query = select(tenants.c.created_at).where(tenants.c.name == DEFAULT_TENANT)
        made = (await connection.execute(query)).scalar_one()
    return hashlib.sha256(made.astimezone(UTC).isoformat().encode()).hexdigest()[:16]


async def find(control: AsyncEngine, at: Address, version: int | None = None) -> Row[Any] | None:
    """Return the present row, or that of a version that is kept; with `replaced_at`."""
    present = select(objects, null().label("replaced_at")).where(at.row(), LIVING)
    async with control.connect() as connection:
        if version is None:
            return (await connection.execute(present)).first()
        row = (await connection.execute(present.where(objects.c.version == version))).first()
        return row or await find_version(connection, at, version)


async def find_version(
    tx: AsyncConnection, at: Address, version: int, *, hold: bool = False
) -> Row[Any] | None:
    """Return the row of an earlier version; `hold` keeps it from the purge until `tx` ends."""
    here = at.row(object_versions) & (object_versions.c.version == version)
    query = select(object_versions).where(here)
    return (await tx.execute(query.with_for_update(read=True) if hold else query)).first()


async def lock(tx: AsyncConnection, at: Address) -> Row[Any] | None:
    """Return the present row, locked until `tx` ends."""
    return (await tx.execute(select(objects).where(at.row(), LIVING).with_for_update())).first()


async def lock_all(
    tx: AsyncConnection, addresses: Iterable[Address]
) -> dict[Address, Row[Any] | None]:
    """Return the present rows, locked until `tx` ends; always in one order, so that none waits for another."""
    return {at: await lock(tx, at) for at in sorted(set(addresses))}


async def write(
    tx: AsyncConnection, op: Operation, at: Address, payload: Payload, guard: Guard, *, keep: bool
) -> Row[Any]:
    """Make `payload` the object in this transaction and return the new row.

    `keep` keeps the version that is replaced.

    Raises:
        Conflict: the object that is there, now locked, is not what the guard asks for.
    """
    row = None
    while row is None:
        before = await lock(tx, at)
        guard.check(before)
        if before is None:
            row = await _insert(tx, at, payload)
            if row is None:  # another writer was faster, or what expired stands there: look again
                await _bury(tx, at)
        else:
            row = await _replace(tx, before, payload, keep=keep)
        if row is not None:
            prev = None if before is None else before.version
            await op.journal(tx, version=row.version, prev_version=prev)
    return row


async def remove(
    tx: AsyncConnection, op: Operation, at: Address, guard: Guard, *, keep: bool
) -> bool:
    """Delete the object in this transaction and tell whether it was there.

    Raises:
        Conflict: the object that is there, now locked, is not what the guard asks for.
    """
    gone = await lock(tx, at)
    guard.check(gone)
    if gone is None:
        return False
    await tx.execute(delete(objects).where(objects.c.id == gone.id))
    await _retire(tx, gone, keep=keep)
    await op.journal(tx, verb="delete", prev_version=gone.version)
    return True


async def discard(tx: AsyncConnection, blobs: Iterable[str]) -> None:
    """Note blobs that a row ceased to name: the collector takes those that no other row names."""
    rows = [{"blob": blob} for blob in sorted(set(blobs))]
    if rows:
        # A row may be there already: a sweep takes the blob of a put that lasts too long for an orphan.
        added = insert(garbage_blobs).values(rows)
        since = {"since": func.now()}
        await tx.execute(added.on_conflict_do_update(index_elements=["blob"], set_=since))


async def _insert(tx: AsyncConnection, at: Address, payload: Payload) -> Row[Any] | None:
    named = at.columns()
    query = (
        insert(objects)
        .values(
            id=payload.id or f"file-{secrets.token_hex(12)}",
            version=func.next_version(at.tenant),
            **named,
            **payload.columns(),
        )
        .on_conflict_do_nothing(index_elements=list(named))
        .returning(objects)
    )
    return (await tx.execute(query)).first()


async def _bury(tx: AsyncConnection, at: Address) -> None:
    expired = delete(objects).where(at.row(), objects.c.expires_at <= func.now())
    await discard(tx, (await tx.scalars(expired.returning(objects.c.blob))).all())


async def _replace(
    tx: AsyncConnection, before: Row[Any], payload: Payload, *, keep: bool
) -> Row[Any]:
    version = func.next_version(before.tenant)
    query = (
        update(objects)
        .where(objects.c.id == before.id)
        .values(version=version, updated_at=func.now(), **payload.columns())
        .returning(objects)
    )
    row = (await tx.execute(query)).one()
    await _retire(tx, before, keep=keep, but=row.blob)
    return row


async def _retire(
    tx: AsyncConnection, row: Row[Any], *, keep: bool, but: str | None = None
) -> None:
    """Keep what is not current any more as a version, else give its blob up unless it is `but`."""
    if keep:
        kept = {name: getattr(row, name) for name in _KEPT}
        await tx.execute(insert(object_versions).values(kept))
    elif row.blob != but:
        await discard(tx, [row.blob])
