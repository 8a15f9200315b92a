"""The operations that change objects: put, copy, tag and delete, and the drafts that they are made of."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from typing import cast

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.objects import attributes, content
from mcp_server.services.objects.addresses import names_of
from mcp_server.services.objects.changes import CopyDraft, TagDraft
from mcp_server.services.objects.conditions import Condition, Current
from mcp_server.services.objects.drafts import (
    DeleteDraft,
    RecordedDraft,
    RestoreDraft,
    Stores,
    WriteDraft,
)
from mcp_server.services.objects.manifest import Payload
from mcp_server.services.objects.reads import ObjectReads
from mcp_server.services.objects.shapes import ObjectDeleted, ObjectInfo
from mcp_server.services.writes import Draft, Record, carry_out
from mcp_server.storage.objects import BlobStore

Texts = Mapping[str, str]


class ObjectService(ObjectReads):
    """Every method is one operation on `object://BUCKET/KEY`; `undo_days` is how long versions are kept."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        blobs: BlobStore,
        undo_days: float = 0.0,
    ) -> None:
        super().__init__(operation, Stores(control, blobs, keep=undo_days > 0))

    async def put(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        text: str | None = None,
        base64: str | None = None,
        content_type: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        metadata: Texts | None = None,
        tags: Texts | None = None,
        idempotency_key: str | None = None,
    ) -> ObjectInfo:
        """Store an object given as text or base64.

        Raises:
            Conflict: the present object is not what the conditions ask for.
            InvalidInput: an argument is malformed or too large.
        """
        draft = await self.draft_write(
            principal,
            bucket,
            key,
            text=text,
            base64=base64,
            content_type=content_type,
            if_match=if_match,
            if_none_match=if_none_match,
            metadata=metadata,
            tags=tags,
        )
        return await self.carry_out(principal, draft, idempotency_key)

    async def put_stream(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        chunks: AsyncIterable[bytes],
        content_type: str | None = None,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> ObjectInfo:
        """Store an object of any size; it exists from the moment this returns, whole.

        Raises:
            Conflict: the present object is not what the conditions ask for.
            InvalidInput: a name or the content type is malformed.
        """
        at = self.address(principal, bucket, key)
        kind = content.media_type(content_type, at.key, is_text=False)
        condition = Condition(if_match, if_none_match)
        draft = WriteDraft(self.stores, at, chunks, kind, condition=condition)
        return await self.carry_out(principal, draft, idempotency_key)

    async def copy(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        to_bucket: str,
        to_key: str,
        *,
        version: int | None = None,
        source_if_match: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> ObjectInfo:
        """Make one object, or a version of it, another object's content; no bytes move.

        Raises:
            NotFound: there is no such source.
            Conflict: the source or the present target is not what the conditions ask for.
        """
        source = self.address(principal, bucket, key)
        draft = CopyDraft(
            self.stores,
            self.address(principal, to_bucket, to_key),
            source,
            version,
            Condition(source_if_match),
            Condition(if_match, if_none_match),
        )
        async with self._operation(principal, "read", source.uri):
            return await self.carry_out(principal, draft, idempotency_key)

    async def tag(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        metadata: Texts | None = None,
        tags: Texts | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> ObjectInfo:
        """Replace an object's metadata, its tags or both; what is None stays.

        Raises:
            NotFound: there is no such object.
            Conflict: the present object is not what the condition asks for.
        """
        draft = TagDraft(
            self.stores,
            self.address(principal, bucket, key),
            None if metadata is None else attributes.metadata(metadata),
            None if tags is None else attributes.tags(tags),
            Condition(if_match),
        )
        return await self.carry_out(principal, draft, idempotency_key)

    async def delete(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> ObjectDeleted:
        """Delete an object and tell whether it was there.

        Raises:
            Conflict: the present object is not what the condition asks for.
        """
        draft = await self.draft_delete(principal, bucket, key, if_match=if_match)
        operation = self._operation(principal, "write", draft.uri, key=idempotency_key)
        async with operation as op:
            done = await carry_out(self._control, op, draft)
        return ObjectDeleted(deleted=done["deleted"])

    async def draft_write(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        text: str | None = None,
        base64: str | None = None,
        content_type: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        metadata: Texts | None = None,
        tags: Texts | None = None,
    ) -> Draft:
        """Return what `put` does, as a draft.

        Raises:
            InvalidInput: an argument is malformed or too large.
        """
        at = self.address(principal, bucket, key)
        body = content.decode(text, base64)
        return WriteDraft(
            self.stores,
            at,
            _once(body),
            content.media_type(content_type, key, is_text=text is not None),
            attributes.metadata(metadata),
            attributes.tags(tags),
            Condition(if_match, if_none_match),
        )

    async def draft_delete(
        self, principal: Principal, bucket: str, key: str, *, if_match: str | None = None
    ) -> Draft:
        """Return what `delete` does, as a draft."""
        return DeleteDraft(self.stores, self.address(principal, bucket, key), Condition(if_match))

    async def draft_restore(
        self, principal: Principal, uri: str, version: int | None, expected: int
    ) -> Draft:
        """Return the draft that makes `version` current again, or deletes what is there if it is None."""
        at = self.address(principal, *names_of(uri))
        if version is None:
            return DeleteDraft(self.stores, at, Current(expected))
        return RestoreDraft(self.stores, at, version, expected)

    async def draft_recorded(self, principal: Principal, uri: str, record: Record) -> Draft:
        """Return the draft of a record, without conditions."""
        at = self.address(principal, *names_of(uri))
        if "delete" in record.content:
            return DeleteDraft(self.stores, at)
        return RecordedDraft(self.stores, at, Payload(**record.content["write"]))

    async def carry_out(
        self,
        principal: Principal,
        draft: Draft,
        key: str | None = None,
        *,
        labels: tuple[str, ...] = (),
    ) -> ObjectInfo:
        """Do what a draft of a write says, in a transaction of its own; return the object."""
        operation = self._operation(principal, "write", draft.uri, key=key, labels=labels)
        async with operation as op:
            return cast("ObjectInfo", await carry_out(self._control, op, draft))


async def _once(body: bytes) -> AsyncGenerator[bytes]:
    yield body
