"""The operations on objects: put, get, open as a stream, list and delete."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any, NotRequired

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import TypedDict

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.services import names
from mcp_server.services.objects import content, manifest
from mcp_server.services.objects.listing import Listing
from mcp_server.services.objects.manifest import Address, Condition
from mcp_server.storage.objects import BlobStore


class ObjectInfo(TypedDict):
    """One object; `size` in bytes, `etag` the MD5 of its bytes, `id` stays when it is overwritten."""

    bucket: str
    key: str
    id: str
    size: int
    etag: str
    content_type: str


class ObjectContent(ObjectInfo):
    """One object with the bytes asked for: as text if they are text, else as base64."""

    text: NotRequired[str]
    base64: NotRequired[str]


class CommonPrefix(TypedDict):
    """Stands for all keys that begin with it."""

    prefix: str


class ObjectPage(TypedDict):
    items: list[ObjectInfo | CommonPrefix]
    next_cursor: str | None


class ObjectDeleted(TypedDict):
    deleted: bool


class ObjectService:
    """Every method is one operation on `object://BUCKET/KEY`."""

    def __init__(self, operation: Operations, control: AsyncEngine, blobs: BlobStore) -> None:
        self._operation = operation
        self._control = control
        self._blobs = blobs

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
        idempotency_key: str | None = None,
    ) -> ObjectInfo:
        """Store an object given as text or base64.

        Raises:
            Conflict: the present object is not what the conditions ask for.
            InvalidInput: an argument is malformed or too large.
        """
        body = content.decode(text, base64)
        kind = content.media_type(content_type, key, is_text=text is not None)
        return await self.put_stream(
            principal,
            bucket,
            key,
            _once(body),
            kind,
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
        """Store an object of any size; it exists from the moment this returns, whole.

        Raises:
            Conflict: the present object is not what the conditions ask for.
            InvalidInput: a name or the content type is malformed.
        """
        at = _address(principal, bucket, key)
        kind = content.media_type(content_type, at.key, is_text=False)
        condition = Condition(if_match, if_none_match)
        async with self._operation(principal, "write", at.uri, key=idempotency_key) as op:
            done = await op.look(self._control)
            if done is not None:
                return done
            if condition and op.key is None:  # spare the upload; it is decided again under a lock
                row = await manifest.find(self._control, at)
                condition.check(None if row is None else row.etag)
            blob = await self._blobs.put(chunks)
            try:
                async with self._control.begin() as tx:
                    done = await op.replay(tx)
                    if done is None:
                        row = await manifest.record(tx, op, at, blob, kind, condition)
                        return await op.remember(tx, _info(row))
            except AppError:  # rolled back for certain; after anything else the blob may be in use
                await self._blobs.delete(blob.key)
                raise
            await self._blobs.delete(blob.key)  # a twin was faster
        return done

    async def get(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        range: tuple[int, int] | None = None,  # noqa: A002 - the contract's name
    ) -> ObjectContent:
        """Return an object with its bytes, or those from the first to the last of `range`.

        Raises:
            NotFound: there is no such object.
            InvalidInput: the range does not fit, or more than 1 MiB is asked for.
        """
        at = _address(principal, bucket, key)
        async with self._operation(principal, "read", at.uri):
            row = await self._find(at)
            start, end = _bounds(range, row.size)
            if end - start > content.MAX_INLINE_BYTES:
                raise InvalidInput(
                    f"range: {end - start} bytes are more than the "
                    f"{content.MAX_INLINE_BYTES} returned at once; read the object in "
                    f"parts, the first with range [0, {content.MAX_INLINE_BYTES - 1}]",
                    param="range",
                )
            body = b"".join([chunk async for chunk in self._blobs.get(row.blob, start, end)])
        return ObjectContent(**_info(row), **content.encode(body, row.content_type))

    async def open(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        range: tuple[int, int] | None = None,  # noqa: A002 - the contract's name
    ) -> tuple[ObjectInfo, AsyncGenerator[bytes]]:
        """Return an object and its bytes as a stream; whoever stops early must close it.

        The stream is not disturbed by writers, and yields the bytes of one version.

        Raises:
            NotFound: there is no such object. InvalidInput: the range does not fit.
        """
        at = _address(principal, bucket, key)
        async with self._operation(principal, "read", at.uri):
            row = await self._find(at)
            start, end = _bounds(range, row.size)
        return _info(row), self._blobs.get(row.blob, start, end)

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
        """Return a page of a bucket in byte order.

        Keys that hold `delimiter` after `prefix` are folded into one item per common prefix.
        """
        bucket, size = _bucket(bucket), names.page_size(limit)
        start = unicodedata.normalize("NFC", names.prefix(prefix))
        fold = names.key(delimiter, "delimiter") if delimiter else None
        base = f"object://{bucket}/"
        visible = policy.scope(principal, "read", "object").within(base)
        listing = Listing(
            principal.tenant, bucket, start, fold, names.decode_cursor(cursor), visible
        )
        async with self._operation(principal, "read", policy.Listing(base + start)):
            rows = await listing.rows(self._control, size + 1)
        return ObjectPage(
            items=[_item(row) for row in rows[:size]],
            next_cursor=names.encode_cursor(rows[size - 1].bound) if len(rows) > size else None,
        )

    async def delete(
        self, principal: Principal, bucket: str, key: str, *, idempotency_key: str | None = None
    ) -> ObjectDeleted:
        """Delete an object and tell whether it was there."""
        at = _address(principal, bucket, key)
        operation = self._operation(principal, "write", at.uri, key=idempotency_key)
        async with operation as op, self._control.begin() as tx:
            done = await op.replay(tx, "delete")
            if done is None:
                done = ObjectDeleted(deleted=await manifest.remove(tx, op, at))
                await op.remember(tx, done, "delete")
        return ObjectDeleted(deleted=done["deleted"])

    async def _find(self, at: Address) -> Row[Any]:
        row = await manifest.find(self._control, at)
        if row is None:
            raise NotFound(f"object {at.key!r} does not exist in bucket {at.bucket!r}", param="key")
        return row


def _address(principal: Principal, bucket: str, key: str) -> Address:
    return Address(principal.tenant, _bucket(bucket), _key(key))


def _bucket(name: str) -> str:
    if (
        "/" in name
    ):  # `object://a/b/c` would name two objects, and a scope on one bucket open another
        raise InvalidInput(f"bucket: {name[:80]!r} holds a /; leave it out", param="bucket")
    return names.container(name, "bucket")


def _key(key: str) -> str:
    """Return the key in Unicode's composed form, so that what looks alike is alike.

    Raises:
        InvalidInput: it is no key, or could be mistaken for a path that leads elsewhere.
    """
    key = names.key(unicodedata.normalize("NFC", names.key(key)))
    if "\\" in key or any(part in {"", ".", ".."} for part in key.split("/")):
        raise InvalidInput(
            f"key: {key[:80]!r} holds a backslash or an empty, . or .. part between slashes; "
            "use names joined by single slashes, for example reports/2026/may.txt",
            param="key",
        )
    return key


def _bounds(span: tuple[int, int] | None, size: int) -> tuple[int, int]:
    """Return the first byte and the one after the last; a range that ends past the end is clipped."""
    if span is None:
        return 0, size
    first, last = span
    if not 0 <= first <= last:
        raise InvalidInput(
            f"range: [{first}, {last}] is not [first, last] with 0 <= first <= last", param="range"
        )
    if first >= size:
        raise InvalidInput(
            f"range: byte {first} is past the end, the object has {size} bytes", param="range"
        )
    return first, min(last + 1, size)


def _info(row: Row[Any]) -> ObjectInfo:
    return ObjectInfo(
        bucket=row.bucket,
        key=row.key,
        id=row.id,
        size=row.size,
        etag=row.etag,
        content_type=row.content_type,
    )


def _item(row: Row[Any]) -> ObjectInfo | CommonPrefix:
    return _info(row) if row.common is None else CommonPrefix(prefix=row.common)


async def _once(body: bytes) -> AsyncGenerator[bytes]:
    yield body
