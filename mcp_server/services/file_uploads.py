"""Files that come in parts: sent in any order and at once, joined in the order that the end names, whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, InvalidInput, LimitExceeded, NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.services.files import BUCKET, FileRecord, FileTerms, record_of
from mcp_server.services.objects import ObjectService, attributes, content, manifest
from mcp_server.services.objects import file_upload_rows as rows
from mcp_server.services.objects.conditions import Condition
from mcp_server.services.objects.expiry import expire
from mcp_server.services.objects.joining import joined
from mcp_server.services.objects.manifest import Payload
from mcp_server.storage.objects import Blob

MOST_PART_BYTES = 64 * 1024 * 1024
MOST_PARTS = 10_000
MOST_PENDING = 1000


class PartTooLarge(InvalidInput):
    """More bytes than a part may have."""

    status = 413


class FileUpload(NamedTuple):
    """One upload; `file` is there once it is completed. Times are in Unix seconds."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: FileRecord | None = None


class FilePart(NamedTuple):
    id: str
    upload_id: str
    created_at: int


class FileUploadService:
    """Every method is one operation on the `object://files/ID` that the upload will be."""

    def __init__(
        self, operation: Operations, control: AsyncEngine, objects: ObjectService, most_bytes: int
    ) -> None:
        self._operation = operation
        self._control = control
        self._objects = objects
        self._blobs = objects.stores.blobs
        self._most_bytes = most_bytes

    async def create(self, principal: Principal, length: int, terms: FileTerms) -> FileUpload:
        """Begin an upload of `length` bytes, which may go on for an hour.

        Raises:
            InvalidInput: the terms do not fit. LimitExceeded: too many uploads are in progress.
        """
        at = self._objects.address(principal, BUCKET, f"file-{secrets.token_hex(12)}")
        async with self._operation(principal, "write", at.uri):
            if not 0 <= length <= self._most_bytes:
                raise InvalidInput(
                    f"bytes: {length} is not between 0 and {self._most_bytes} (ISTHMUS_MAX_OBJECT_BYTES)",
                    param="bytes",
                )
            said = attributes.metadata({"filename": terms.filename, "purpose": terms.purpose})
            values: dict[str, Any] = {"tenant": at.tenant, "file": at.key, "bytes": length, **said}
            values["content_type"] = content.media_type(terms.content_type, at.key, is_text=False)
            values["lifetime_seconds"] = terms.lifetime_seconds
            async with self._control.begin() as tx:
                if await rows.count_pending(tx, at.tenant) >= MOST_PENDING:
                    raise LimitExceeded(f"{MOST_PENDING} uploads are pending; end some of them")
                return _shown(await rows.make(tx, values))

    async def add_part(
        self, principal: Principal, upload_id: str, chunks: AsyncIterable[bytes]
    ) -> FilePart:
        """Store a part as it comes.

        Raises:
            NotFound: there is no such upload. PartTooLarge: it has over 64 MB.
            InvalidInput: the upload has ended, or more came than it could ever use.
        """
        row, uri = await self._find(principal, upload_id)
        async with self._operation(principal, "write", uri):
            _pending(_known(row, upload_id))
            async with aclosing(_bounded(chunks)) as bounded:
                blob = await self._blobs.put(bounded)
            try:
                async with self._control.begin() as tx:
                    await self._room(tx, principal, upload_id, blob.size)
                    part = await rows.add_part(tx, upload_id, blob)
            except AppError:
                await self._delete(blob)
                raise
            return FilePart(part.id, upload_id, int(part.created_at.timestamp()))

    async def complete(
        self, principal: Principal, upload_id: str, part_ids: Sequence[str], md5: str | None
    ) -> FileUpload:
        """Make the file of the parts in this order; the same request again gets the same answer.

        Raises:
            NotFound: there is no such upload.
            InvalidInput: a part is not of this upload, or its bytes are not those that were announced.
        """
        row, uri = await self._find(principal, upload_id)
        async with self._operation(principal, "write", uri) as op:
            row = _known(row, upload_id)
            if row.status == "completed" and row.part_ids == list(part_ids):
                return await self._completed(row, principal)
            _pending(row)
            parts = _chosen(part_ids, await rows.parts(self._control, upload_id))
            _check_size(row.bytes, sum(part.size for part in parts))
            alone = len(parts) == 1
            whole = _blob(parts[0]) if alone else await self._join(parts)
            try:
                _check_md5(md5, whole.md5)
                first = await self._name(op, row, whole, part_ids)
            except AppError:
                if not alone:
                    await self._delete(whole)
                raise
            if not first and not alone:
                await self._delete(whole)
            return await self._completed(row, principal)

    async def cancel(self, principal: Principal, upload_id: str) -> FileUpload:
        """Give an upload up, with what came of it.

        Raises:
            NotFound: there is no such upload. InvalidInput: it is completed or has expired.
        """
        row, uri = await self._find(principal, upload_id)
        async with self._operation(principal, "write", uri):
            async with self._control.begin() as tx:
                row = _known(await rows.lock(tx, principal.tenant, upload_id), upload_id)
                if row.status != "cancelled":
                    _pending(row)
                    await rows.settle(tx, upload_id, "cancelled", None, None)
            return _shown(row)._replace(status="cancelled")

    async def _room(
        self, tx: AsyncConnection, principal: Principal, upload_id: str, size: int
    ) -> None:
        row = _known(await rows.lock(tx, principal.tenant, upload_id), upload_id)
        _pending(row)
        count, total = await rows.stored(tx, upload_id)
        # Twice as much as is needed, so that any part may be sent again.
        if count >= MOST_PARTS or total + size > 2 * row.bytes + MOST_PART_BYTES:
            _refuse("data", f"too much came for an upload of {row.bytes} bytes; begin another one")

    async def _join(self, parts: Sequence[Row[Any]]) -> Blob:
        async with aclosing(
            joined(self._blobs, [(each.blob, each.size) for each in parts])
        ) as all_:
            return await self._blobs.put(all_)

    async def _name(
        self, op: Operation, row: Row[Any], whole: Blob, part_ids: Sequence[str]
    ) -> bool:
        """Make `whole` the file, in one transaction with the upload's end; False if a twin was faster."""
        at = self._objects.address(op.principal, BUCKET, row.file)
        said = {"filename": row.filename, "purpose": row.purpose}
        payload = replace(Payload.of_blob(whole, row.content_type, said, {}), id=at.key)
        async with self._control.begin() as tx:
            now = _known(await rows.lock(tx, at.tenant, row.id), row.id)
            if now.status == "completed" and now.part_ids == list(part_ids):
                return False
            if now.status != "pending":
                _pending(now)
            keep = self._objects.stores.keep
            await manifest.write(tx, op, at, payload, Condition(), keep=keep)
            await expire(tx, at, row.lifetime_seconds)
            await rows.settle(tx, row.id, "completed", part_ids, whole.key)
        return True

    async def _completed(self, row: Row[Any], principal: Principal) -> FileUpload:
        found = await manifest.find(
            self._control, self._objects.address(principal, BUCKET, row.file)
        )
        if found is None:
            raise NotFound(f"the file of upload {row.id} has been deleted", param="upload_id")
        return _shown(row)._replace(status="completed", file=record_of(found))

    async def _find(self, principal: Principal, upload_id: str) -> tuple[Row[Any] | None, str]:
        # Before policy, as only the row knows of which object it decides. Who may not write there is
        # told so first, and not whether there is such an upload.
        at = self._objects.address(principal, BUCKET, upload_id)
        row = await rows.find(self._control, principal.tenant, at.key)
        return row, at.uri if row is None else f"object://{BUCKET}/{row.file}"

    async def _delete(self, blob: Blob) -> None:
        with suppress(AppError):  # the collector finds it
            await self._blobs.delete(blob.key)


async def _bounded(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > MOST_PART_BYTES:
            raise PartTooLarge(
                f"data: a part has at most {MOST_PART_BYTES} bytes; send more of them", param="data"
            )
        yield chunk


def _chosen(part_ids: Sequence[str], parts: dict[str, Row[Any]]) -> list[Row[Any]]:
    if len(set(part_ids)) != len(part_ids):
        _refuse("part_ids", "a part is named twice; name each once, in order")
    for part_id in part_ids:
        if part_id not in parts:
            _refuse("part_ids", f"{part_id[:80]!r} is no part of this upload")
    return [parts[part_id] for part_id in part_ids]


def _check_size(announced: int, given: int) -> None:
    if announced != given:
        _refuse("part_ids", f"the parts have {given} bytes, the upload was to have {announced}")


def _check_md5(wanted: str | None, md5: str) -> None:
    if wanted is not None and wanted.lower() != md5:
        _refuse("md5", "the bytes that came have another checksum; send them again")


def _pending(row: Row[Any]) -> None:
    status = "expired" if row.status == "pending" and row.expired else row.status
    if status != "pending":
        _refuse("upload_id", f"the upload is {status}; begin another one")


def _known(row: Row[Any] | None, upload_id: str) -> Row[Any]:
    if row is None:
        raise NotFound(f"No such Upload object: {upload_id[:80]}", param="upload_id")
    return row


def _refuse(param: str, why: str) -> NoReturn:
    raise InvalidInput(f"{param}: {why}", param=param)


def _blob(part: Row[Any]) -> Blob:
    return Blob(part.blob, part.size, part.sha256, part.md5)


def _shown(row: Row[Any]) -> FileUpload:
    status = "expired" if row.status == "pending" and row.expired else row.status
    created, expires = int(row.created_at.timestamp()), int(row.expires_at.timestamp())
    return FileUpload(row.id, row.bytes, created, expires, row.filename, row.purpose, status, None)
