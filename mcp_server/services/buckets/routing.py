"""Objects wherever they are: in a bucket that the operator configured by name, else in the tenant's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Mapping

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.operation import Operations
from mcp_server.services.buckets.service import BucketService
from mcp_server.services.objects import (
    ObjectContent,
    ObjectDeleted,
    ObjectInfo,
    ObjectPage,
    ObjectService,
    ObjectStat,
    attributes,
    content,
)
from mcp_server.services.objects.addresses import Address
from mcp_server.storage.objects import BlobStore

Texts = Mapping[str, str]
Span = tuple[int, int]


class RoutedObjects(ObjectService):
    """An `ObjectService` in which a configured name is that bucket, for every caller.

    What needs a row of ours is refused there: versions, copies, tags, links, undo, units of work.
    """

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        blobs: BlobStore,
        undo_days: float,
        buckets: BucketService,
    ) -> None:
        super().__init__(operation, control, blobs, undo_days)
        self._buckets = buckets

    def address(self, principal: Principal, bucket: str, key: str) -> Address:
        if bucket in self._buckets:
            raise InvalidInput(
                f"bucket: {bucket!r} is an existing bucket of the operator's, in which objects can "
                "only be put, got, listed and deleted; use another bucket for this",
                param="bucket",
            )
        return super().address(principal, bucket, key)

    async def get(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        range: Span | None = None,  # noqa: A002 - the contract's name
        version: int | None = None,
    ) -> ObjectContent:
        if bucket not in self._buckets:
            return await super().get(principal, bucket, key, range=range, version=version)
        if version is not None:
            self.address(principal, bucket, key)
        return await self._buckets.get(principal, bucket, key, range)

    async def open(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        range: Span | None = None,  # noqa: A002 - the contract's name
    ) -> tuple[ObjectInfo, AsyncGenerator[bytes]]:
        if bucket not in self._buckets:
            return await super().open(principal, bucket, key, range)
        return await self._buckets.open(principal, bucket, key, range)

    async def stat(
        self, principal: Principal, bucket: str, key: str, *, version: int | None = None
    ) -> ObjectStat:
        if bucket not in self._buckets:
            return await super().stat(principal, bucket, key, version=version)
        if version is not None:
            self.address(principal, bucket, key)
        return await self._buckets.stat(principal, bucket, key)

    async def list(
        self,
        principal: Principal,
        bucket: str,
        *,
        prefix: str | None = None,
        delimiter: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> ObjectPage:
        if bucket not in self._buckets:
            return await super().list(
                *(principal, bucket), prefix=prefix, delimiter=delimiter, limit=limit, cursor=cursor
            )
        return await self._buckets.list(principal, bucket, prefix, delimiter, limit, cursor)

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
        if bucket not in self._buckets:
            return await super().put(
                *(principal, bucket, key),
                text=text,
                base64=base64,
                content_type=content_type,
                if_match=if_match,
                if_none_match=if_none_match,
                metadata=metadata,
                tags=tags,
                idempotency_key=idempotency_key,
            )
        if tags is not None:
            self.address(principal, bucket, key)
        return await self._buckets.put(
            *(principal, bucket, key, _once(content.decode(text, base64))),
            content.media_type(content_type, key, is_text=text is not None),
            metadata=attributes.metadata(metadata),
            if_match=if_match,
            if_none_match=if_none_match,
            idempotency_key=idempotency_key,
        )

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
        if bucket not in self._buckets:
            return await super().put_stream(
                *(principal, bucket, key, chunks, content_type),
                if_match=if_match,
                if_none_match=if_none_match,
                idempotency_key=idempotency_key,
            )
        return await self._buckets.put(
            *(principal, bucket, key, chunks),
            content.media_type(content_type, key, is_text=False),
            metadata={},
            if_match=if_match,
            if_none_match=if_none_match,
            idempotency_key=idempotency_key,
        )

    async def delete(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> ObjectDeleted:
        if bucket not in self._buckets:
            return await super().delete(
                principal, bucket, key, if_match=if_match, idempotency_key=idempotency_key
            )
        return await self._buckets.delete(principal, bucket, key, if_match, idempotency_key)


async def _once(body: bytes) -> AsyncGenerator[bytes]:
    yield body
