"""Files: the objects of bucket `files` whose key is their id, as OpenAI's API speaks of them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, and_, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.services.objects import ObjectService, attributes, content, manifest
from mcp_server.services.objects.drafts import WriteDraft
from mcp_server.services.objects.expiry import expire
from mcp_server.services.objects.manifest import LIVING, Payload
from mcp_server.services.objects.reads import Found
from mcp_server.storage.sql.schema import objects

BUCKET = "files"
_BASE = f"object://{BUCKET}/"


class FileTerms(NamedTuple):
    """What a file is beside its bytes; known only when all of them came, as a form ends with them."""

    filename: str
    purpose: str
    content_type: str | None
    # From its making on; None: until it is deleted.
    lifetime_seconds: int | None = None


class FileRecord(NamedTuple):
    """One file: `bytes` is its size, `created_at` and `expires_at` in Unix seconds."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None = None


class FilePage(NamedTuple):
    items: list[FileRecord]
    has_more: bool


class UnknownFile(NotFound):
    """There is no such file, or it is another tenant's."""


@dataclass(slots=True)
class _FileDraft(WriteDraft):
    """Writes an object under the id that its key is."""

    terms: Callable[[], FileTerms] = field(kw_only=True)

    async def prepare(self, op: Operation) -> None:
        del op
        blob = await self.stores.blobs.put(self.chunks)
        terms = self.terms()
        kind = content.media_type(terms.content_type, self.at.key, is_text=False)
        said = {"filename": terms.filename, "purpose": terms.purpose}
        found = Payload.of_blob(blob, kind, attributes.metadata(said), {})
        self._payload = replace(found, id=self.at.key)

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        done = await WriteDraft.apply(self, tx, op)
        await expire(tx, self.at, self.terms().lifetime_seconds)
        return done


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"


async def _nowhere(principal: Principal, file_id: str) -> None:
    del principal, file_id


class FileService:
    """Every method is one operation on `object://files/ID`; `leave` takes a file out of where it was read into."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        objects: ObjectService,
        leave: Callable[[Principal, str], Awaitable[None]] = _nowhere,
    ) -> None:
        self._operation = operation
        self._control = control
        self._objects = objects
        self._leave = leave

    async def create(
        self,
        principal: Principal,
        chunks: AsyncIterable[bytes],
        terms: Callable[[], FileTerms],
        file_id: str | None = None,
    ) -> FileRecord:
        """Store a file of any size as it comes; `terms` is asked when `chunks` has ended.

        `file_id` was drawn before; what is stored under it twice is one file.

        Raises:
            InvalidInput: the terms do not fit.
        """
        at = self._objects.address(principal, BUCKET, file_id or new_file_id())
        draft = _FileDraft(self._objects.stores, at, chunks, "", terms=terms)
        await self._objects.carry_out(principal, draft)
        row = await manifest.find(self._control, at)
        if row is None:
            raise _unknown(at.key)
        return record_of(row)

    async def get(self, principal: Principal, file_id: str) -> FileRecord:
        """Return what is known of a file.

        Raises:
            UnknownFile: there is none.
        """
        at = self._objects.address(principal, BUCKET, file_id)
        async with self._operation(principal, "read", at.uri):
            row = await manifest.find(self._control, at)
            if row is None or row.id != row.key:
                raise _unknown(file_id)
            return record_of(row)

    async def content(self, principal: Principal, file_id: str) -> Found:
        """Return a file's bytes, to be read in parts.

        Raises:
            UnknownFile: there is none.
        """
        try:
            found = await self._objects.find(principal, BUCKET, file_id)
        except NotFound as error:
            raise _unknown(file_id) from error
        if found.stat["id"] != file_id:
            raise _unknown(file_id)
        return found

    async def delete(self, principal: Principal, file_id: str) -> None:
        """Delete a file, and what was read of it from every vector store that the caller may write.

        Raises:
            UnknownFile: there is none.
        """
        at = self._objects.address(principal, BUCKET, file_id)
        async with self._operation(principal, "write", at.uri):
            row = await manifest.find(self._control, at)
            if row is None or row.id != row.key:
                raise _unknown(file_id)
            await self._leave(principal, file_id)  # first: it is begun again if it breaks off
            if not (await self._objects.delete(principal, BUCKET, file_id))["deleted"]:
                raise _unknown(file_id)

    async def list(
        self,
        principal: Principal,
        *,
        purpose: str | None,
        after: str | None,
        limit: int,
        newest_first: bool,
    ) -> FilePage:
        """Return a page of the files that the caller may see, by the moment of their making.

        Raises:
            UnknownFile: `after` is none of them.
        """
        visible = policy.scope(principal, "read", "object").within(_BASE)
        mine = _mine(principal.tenant, visible)
        order = tuple_(objects.c.created_at, objects.c.id)
        if purpose is not None:
            mine = and_(mine, objects.c.metadata["purpose"].astext == purpose)
        async with (
            self._operation(principal, "read", policy.Listing(_BASE)),
            self._control.connect() as connection,
        ):
            query: Select[Any] = select(objects).where(mine)
            if after is not None:
                here = (await connection.execute(query.where(objects.c.id == after))).first()
                if here is None:
                    raise _unknown(after)
                mark = tuple_(here.created_at, here.id)
                query = query.where(order < mark if newest_first else order > mark)
            columns = (objects.c.created_at, objects.c.id)
            query = query.order_by(*(each.desc() if newest_first else each for each in columns))
            rows = (await connection.execute(query.limit(limit + 1))).all()
        return FilePage([record_of(row) for row in rows[:limit]], len(rows) > limit)


def _mine(tenant: str, visible: tuple[str, ...] | None) -> ColumnElement[bool]:
    own = and_(
        objects.c.tenant == tenant,
        objects.c.bucket == BUCKET,
        objects.c.key == objects.c.id,
        LIVING,
    )
    if visible is None:
        return own
    shown = [objects.c.key.startswith(prefix, autoescape=True) for prefix in visible]
    return and_(own, or_(False, *shown))


def record_of(row: Row[Any]) -> FileRecord:
    """Read a row; whoever changes an object's metadata over MCP may take these two from it."""
    return FileRecord(
        row.id,
        row.size,
        int(row.created_at.timestamp()),
        row.metadata.get("filename", row.id),
        row.metadata.get("purpose", "user_data"),
        None if row.expires_at is None else int(row.expires_at.timestamp()),
    )


def _unknown(file_id: str) -> UnknownFile:
    return UnknownFile(f"No such File object: {file_id[:80]}", param="id")
