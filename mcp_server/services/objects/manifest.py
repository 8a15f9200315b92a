"""The manifest: the rows that say which objects exist, and which blobs nobody needs any more."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import DEFAULT_TENANT
from mcp_server.errors import Conflict
from mcp_server.operation import Operation
from mcp_server.storage.objects import Blob
from mcp_server.storage.sql.schema import garbage_blobs, objects, tenants


@dataclass(frozen=True, slots=True)
class Address:
    """Where an object is; names are checked before one is made."""

    tenant: str
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"object://{self.bucket}/{self.key}"

    def row(self) -> ColumnElement[bool]:
        return and_(
            objects.c.tenant == self.tenant,
            objects.c.bucket == self.bucket,
            objects.c.key == self.key,
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """What an object's ETag must or must not be for a write, as in RFC 9110; `*` is any object."""

    if_match: str | None = None
    if_none_match: str | None = None

    def __bool__(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None

    def check(self, etag: str | None) -> None:
        """Judge the present object's ETag, None if there is no object.

        Raises:
            Conflict: says what is there.
        """
        if self.if_match is not None and (etag is None or not _names(self.if_match, etag)):
            found = "there is no such object" if etag is None else f"etag is {etag}"
            raise Conflict(found, param="if_match")
        if self.if_none_match is not None and etag is not None and _names(self.if_none_match, etag):
            raise Conflict(f"the object exists, etag is {etag}", param="if_none_match")


def _names(condition: str, etag: str) -> bool:
    # HTTP quotes ETags; a model that passes on what it saw does not.
    return condition.strip() == "*" or condition.strip().removeprefix("W/").strip('"') == etag


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


async def find(control: AsyncEngine, at: Address) -> Row[Any] | None:
    async with control.connect() as connection:
        return (await connection.execute(select(objects).where(at.row()))).first()


async def record(
    tx: AsyncConnection,
    op: Operation,
    at: Address,
    blob: Blob,
    content_type: str,
    condition: Condition,
) -> Row[Any]:
    """Make `blob` the object's content in this transaction and return the new row.

    Raises:
        Conflict: the object that is there, now locked, does not meet the condition.
    """
    content = {
        "size": blob.size,
        "etag": blob.md5,
        "sha256": blob.sha256,
        "content_type": content_type,
        "blob": blob.key,
        "version": func.next_version(at.tenant),
    }
    row = None
    while row is None:
        query = select(objects).where(at.row()).with_for_update()
        before = (await tx.execute(query)).first()
        condition.check(None if before is None else before.etag)
        if before is None:
            row = await _insert(tx, at, content)  # None: another writer was faster, so look again
        else:
            row = await _replace(tx, before, content)
        if row is not None:
            prev = None if before is None else before.version
            await op.journal(tx, version=row.version, prev_version=prev)
    return row


async def remove(tx: AsyncConnection, op: Operation, at: Address) -> bool:
    """Delete the object in this transaction and tell whether it was there."""
    query = delete(objects).where(at.row()).returning(objects.c.blob, objects.c.version)
    gone = (await tx.execute(query)).first()
    if gone is None:
        return False
    await _discard(tx, gone.blob)
    await op.journal(tx, verb="delete", prev_version=gone.version)
    return True


async def _insert(tx: AsyncConnection, at: Address, content: dict[str, Any]) -> Row[Any] | None:
    named = {"tenant": at.tenant, "bucket": at.bucket, "key": at.key}
    identifier = f"file-{secrets.token_hex(12)}"
    query = (
        insert(objects)
        .values(id=identifier, **named, **content)
        .on_conflict_do_nothing(index_elements=list(named))
        .returning(objects)
    )
    return (await tx.execute(query)).first()


async def _replace(tx: AsyncConnection, before: Row[Any], content: dict[str, Any]) -> Row[Any]:
    query = update(objects).where(objects.c.id == before.id).values(content).returning(objects)
    row = (await tx.execute(query)).one()
    await _discard(tx, before.blob)
    return row


async def _discard(tx: AsyncConnection, blob: str) -> None:
    # The row may be there already: a sweep takes the blob of a put that lasts too long for an orphan.
    added = insert(garbage_blobs).values(blob=blob)
    since = {"since": func.now()}
    await tx.execute(added.on_conflict_do_update(index_elements=["blob"], set_=since))
