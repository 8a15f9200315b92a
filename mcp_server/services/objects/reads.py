"""What may be asked of stored objects: their bytes, all that is known of them, lists and versions."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.services import names
from mcp_server.services.objects import content, manifest, shapes
from mcp_server.services.objects.addresses import Address, address, check_bucket
from mcp_server.services.objects.drafts import Stores
from mcp_server.services.objects.listing import Listing
from mcp_server.services.objects.shapes import (
    ObjectContent,
    ObjectInfo,
    ObjectPage,
    ObjectStat,
    VersionPage,
)
from mcp_server.services.objects.versions import versions_of
from mcp_server.storage.objects import BlobStore


@dataclass(frozen=True, slots=True)
class Found:
    """One version of an object, to be read as often as wanted for a few minutes."""

    stat: ObjectStat
    blob: str
    blobs: BlobStore

    def bytes(self, start: int, end: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `start` up to, not including, `end`; whoever stops early must close it."""
        return self.blobs.get(self.blob, start, end)


class ObjectReads:
    """Every method is one operation on `object://BUCKET/KEY`."""

    def __init__(self, operation: Operations, stores: Stores) -> None:
        self._operation = operation
        self.stores = stores
        self._control = stores.control
        self._blobs = stores.blobs

    def address(self, principal: Principal, bucket: str, key: str) -> Address:
        """Return where an object of the tenant is.

        Raises:
            InvalidInput: a name is none, or the bucket is not the tenant's own.
        """
        return address(principal, bucket, key)

    async def get(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        range: tuple[int, int] | None = None,  # noqa: A002 - the contract's name
        version: int | None = None,
    ) -> ObjectContent:
        """Return an object, or a version of it, with its bytes or those from the first to the last of `range`.

        Raises:
            NotFound: there is no such object, or no such version is kept.
            InvalidInput: the range does not fit, or more than 1 MiB is asked for.
        """
        at = self.address(principal, bucket, key)
        async with self._operation(principal, "read", at.uri):
            row = await self._find(at, version)
            start, end = bounds(range, row.size)
            content.check_inline(end - start)
            body = b"".join([chunk async for chunk in self._blobs.get(row.blob, start, end)])
        return ObjectContent(**shapes.info(row), **content.encode(body, row.content_type))

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
        at = self.address(principal, bucket, key)
        async with self._operation(principal, "read", at.uri):
            row = await self._find(at)
            start, end = bounds(range, row.size)
        return shapes.info(row), self._blobs.get(row.blob, start, end)

    async def find(
        self, principal: Principal, bucket: str, key: str, *, labels: tuple[str, ...] = ()
    ) -> Found:
        """Return what an object is and where its bytes are, for a door that answers parts of it.

        Raises:
            NotFound: there is no such object.
        """
        at = self.address(principal, bucket, key)
        async with self._operation(principal, "read", at.uri, labels=labels):
            row = await self._find(at)
        return Found(shapes.stat(row), row.blob, self._blobs)

    async def stat(
        self, principal: Principal, bucket: str, key: str, *, version: int | None = None
    ) -> ObjectStat:
        """Return all that is known of an object, or of a version of it.

        Raises:
            NotFound: there is no such object, or no such version is kept.
        """
        at = self.address(principal, bucket, key)
        async with self._operation(principal, "read", at.uri):
            return shapes.stat(await self._find(at, version))

    async def versions(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> VersionPage:
        """Return a page of an object's versions, newest first: the present one, and those that are kept.

        Raises:
            NotFound: there is none.
        """
        at, size = self.address(principal, bucket, key), names.page_size(limit)
        below = _version_cursor(cursor)
        async with self._operation(principal, "read", at.uri):
            rows = await versions_of(self._control, at, below, size + 1)
            if not rows and below is None:
                raise _missing(at)
        more = len(rows) > size
        return VersionPage(
            items=[shapes.stat(row) for row in rows[:size]],
            next_cursor=names.encode_cursor(str(rows[size - 1].version)) if more else None,
        )

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
        bucket, size = check_bucket(bucket), names.page_size(limit)
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
            items=[shapes.item(row) for row in rows[:size]],
            next_cursor=names.encode_cursor(rows[size - 1].bound) if len(rows) > size else None,
        )

    async def _find(self, at: Address, version: int | None = None) -> Row[Any]:
        row = await manifest.find(self._control, at, version)
        if row is None:
            raise _missing(at, version)
        return row


def _missing(at: Address, version: int | None = None) -> NotFound:
    if version is not None:
        return NotFound(
            f"object {at.key!r} in bucket {at.bucket!r} has no version {version}, or it is not "
            "kept any more; object_versions shows those that are",
            param="version",
        )
    return NotFound(f"object {at.key!r} does not exist in bucket {at.bucket!r}", param="key")


def _version_cursor(cursor: str | None) -> int | None:
    text = names.decode_cursor(cursor)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidInput(
            f"cursor: {(cursor or '')[:40]!r} is no cursor; pass next_cursor of the page before",
            param="cursor",
        )
    return int(text)


def bounds(span: tuple[int, int] | None, size: int) -> tuple[int, int]:
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
