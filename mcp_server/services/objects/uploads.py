"""Resumable uploads: parts that survive a crash, and at their end one object, whole at once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import (
    AppError,
    Conflict,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Timeout,
)
from mcp_server.operation import Operation, Operations
from mcp_server.services.objects import attributes, content, manifest, shapes, upload_rows
from mcp_server.services.objects.addresses import Address
from mcp_server.services.objects.conditions import Condition
from mcp_server.services.objects.feed import Checksum, Feed
from mcp_server.services.objects.joining import joined
from mcp_server.services.objects.manifest import Payload
from mcp_server.services.objects.service import ObjectService
from mcp_server.services.objects.upload_rows import Upload
from mcp_server.storage.objects import Blob

LABELS = ("upload",)
# What a crash may cost: a part is acknowledged as a whole. Each is one blob until the end.
PART_BYTES = 16 * 1024 * 1024
# With a checksum nothing counts before all of a request came; parts that nothing names are swept
# after an hour.
CHECKED_SECONDS = 30 * 60.0
MOST_OPEN = 1000


class ObjectTooLarge(InvalidInput):
    """More bytes than an object may have."""

    status = 413


class PreconditionFailed(Conflict):
    """The present object is not what the upload's conditions ask for: the upload has ended."""

    status = 412


@dataclass(frozen=True, slots=True)
class Terms:
    """What the object will be beside its bytes, and what must be there; `header` is shown again as it came."""

    content_type: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    metadata: Mapping[str, str] | None = None
    tags: Mapping[str, str] | None = None
    header: str = ""

    @property
    def condition(self) -> Condition:
        return Condition(self.if_match, self.if_none_match)

    def columns(self, at: Address) -> dict[str, Any]:
        """Return the terms, checked.

        Raises:
            InvalidInput: one of them does not fit.
        """
        return {
            "content_type": content.media_type(self.content_type, at.key, is_text=False),
            "if_match": self.if_match,
            "if_none_match": self.if_none_match,
            "metadata": attributes.metadata(self.metadata),
            "tags": attributes.tags(self.tags),
            "header": self.header,
        }


class UploadService:
    """Every method is one operation on the object that the upload will be, labelled `upload`."""

    def __init__(
        self, operation: Operations, control: AsyncEngine, objects: ObjectService, most_bytes: int
    ) -> None:
        self._operation = operation
        self._control = control
        self._objects = objects
        self._blobs = objects.stores.blobs
        self.most_bytes = most_bytes

    async def create(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        length: int,
        terms: Terms,
    ) -> Upload:
        """Begin an upload of `length` bytes; one of none is complete at once.

        Raises:
            ObjectTooLarge: an object may not have so many. LimitExceeded: too many uploads are open.
            PreconditionFailed: the present object is not what the conditions ask for.
        """
        at = self._objects.address(principal, bucket, key)
        if not 0 <= length <= self.most_bytes:
            raise ObjectTooLarge(
                f"Upload-Length: {length} is over {self.most_bytes} bytes (ISTHMUS_MAX_OBJECT_BYTES)"
            )
        values = {"id": secrets.token_hex(16), "subject": principal.subject, "length": length}
        values |= at.columns() | terms.columns(at)
        async with self._operation(principal, "write", at.uri, labels=LABELS) as op:
            _check(terms.condition, await manifest.find(self._control, at))
            async with self._control.begin() as tx:
                if await upload_rows.count_open(tx, at.tenant) >= MOST_OPEN:
                    raise LimitExceeded(
                        f"{MOST_OPEN} uploads are open; finish or DELETE some of them"
                    )
                upload = Upload.of_row(await upload_rows.make(tx, values))
            return await self._keep(op, upload, []) if length == 0 else upload

    async def find(self, principal: Principal, upload_id: str) -> Upload:
        """Return how far an upload came.

        Raises:
            NotFound: there is no such upload, it is another's, or it has expired.
        """
        upload = await self._find(principal, upload_id)
        async with self._operation(principal, "write", upload.at.uri, labels=LABELS):
            return upload

    async def append(
        self,
        principal: Principal,
        upload_id: str,
        offset: int,
        chunks: AsyncIterator[bytes],
        checksum: Checksum | None = None,
    ) -> Upload:
        """Add what `chunks` yields from `offset` on; with the last byte the object exists.

        Without a checksum, what came is kept even if the client leaves in the middle.

        Raises:
            Conflict: the upload stands at another offset. ChecksumMismatch: other bytes came.
            PreconditionFailed: the present object is not what the upload's conditions ask for.
        """
        upload = await self._find(principal, upload_id)
        async with self._operation(principal, "write", upload.at.uri, labels=LABELS) as op:
            if offset != upload.received:
                raise Conflict(f"the upload stands at offset {upload.received}, not {offset}")
            feed = Feed(chunks, upload.length - offset, checksum)
            upload = await self._take(op, upload, feed, at_once=checksum is not None)
            if feed.error is not None:
                raise feed.error
            return upload

    async def end(self, principal: Principal, upload_id: str) -> None:
        """Give an upload up; an object that it became stays.

        Raises:
            NotFound: there is no such upload.
        """
        upload = await self._find(principal, upload_id)
        async with self._operation(principal, "write", upload.at.uri, labels=LABELS):
            await self._end(upload)

    async def _take(self, op: Operation, upload: Upload, feed: Feed, *, at_once: bool) -> Upload:
        begun = asyncio.get_running_loop().time()
        staged: list[Blob] = []
        try:
            while await feed.more():
                async with aclosing(feed.part(PART_BYTES)) as part:
                    staged.append(await self._blobs.put(part))
                await feed.finish()
                if not at_once:
                    upload, staged = await self._keep(op, upload, staged), []
                elif asyncio.get_running_loop().time() - begun > CHECKED_SECONDS:
                    raise Timeout(
                        "a chunk with a checksum took over half an hour; send smaller chunks"
                    )
            feed.verify()
            return await self._keep(op, upload, staged) if staged else upload
        except AppError:  # rolled back for certain; after anything else they may be in use
            await self._delete(staged)
            raise

    async def _keep(self, op: Operation, upload: Upload, blobs: Sequence[Blob]) -> Upload:
        received = upload.received + sum(blob.size for blob in blobs)
        if received == upload.length:
            return await self._complete(op, upload, blobs)
        async with self._control.begin() as tx:
            row = await upload_rows.advance(tx, upload, received)
            await upload_rows.add_parts(tx, upload, blobs)
        return upload.advanced(row)

    async def _complete(self, op: Operation, upload: Upload, last: Sequence[Blob]) -> Upload:
        """Make the object: of one part as it is, of several by streaming them into one blob.

        The last bytes are acknowledged by the transaction that makes the object visible, so an upload
        that stands at its length is an object.
        """
        row = await self._row(op.principal, upload.id)
        parts = [
            (part.blob, part.size) for part in await upload_rows.parts(self._control, upload.id)
        ]
        parts += [(blob.key, blob.size) for blob in last]
        alone = len(parts) == 1 and len(last) == 1
        whole = last[0] if alone else await self._blobs.put(joined(self._blobs, parts))
        payload = Payload.of_blob(whole, row.content_type, row.metadata, row.tags)
        condition, keep = Condition(row.if_match, row.if_none_match), self._objects.stores.keep
        try:
            async with self._control.begin() as tx:
                made = await manifest.write(tx, op, upload.at, payload, condition, keep=keep)
                info = shapes.info(made)
                moved = await upload_rows.advance(tx, upload, upload.length, info)
                await upload_rows.drop_parts(tx, [upload.id])
        except AppError as error:
            if not alone:
                await self._delete([whole])
            if isinstance(error, Conflict) and error.param is not None:  # a condition
                await self._end(upload)
                raise PreconditionFailed(error.message, param=error.param) from error
            raise
        if not alone:
            await self._delete(last)
        return upload.advanced(moved, info)

    async def _end(self, upload: Upload) -> None:
        async with self._control.begin() as tx:
            await upload_rows.end(tx, [upload.id])

    async def _delete(self, blobs: Sequence[Blob]) -> None:
        for blob in blobs:
            with suppress(AppError):  # the collector finds it
                await self._blobs.delete(blob.key)

    async def _find(self, principal: Principal, upload_id: str) -> Upload:
        return Upload.of_row(await self._row(principal, upload_id))

    async def _row(self, principal: Principal, upload_id: str) -> Row[Any]:
        row = await upload_rows.find(self._control, principal, upload_id)
        if row is None:
            raise NotFound("this upload does not exist, or has expired")
        return row


def _check(condition: Condition, row: Row[Any] | None) -> None:
    try:
        condition.check(row)
    except Conflict as error:
        raise PreconditionFailed(error.message, param=error.param) from error
