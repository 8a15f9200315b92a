"""Objects of existing buckets of the operator's, which only the operator and scopes that name them reach."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.services import names
from mcp_server.services.objects import content
from mcp_server.services.objects.reads import bounds
from mcp_server.services.objects.shapes import (
    CommonPrefix,
    ObjectContent,
    ObjectDeleted,
    ObjectInfo,
    ObjectPage,
    ObjectStat,
)
from mcp_server.storage.buckets import Bucket, Entry, Upload
from mcp_server.timestamps import iso

# A content that changes while it is read is read anew so often.
READS = 3


class BucketService:
    """Every method is one operation on `object://NAME/KEY`, leaving this server.

    Nothing is known here of what is in them but what their servers say: no versions, ids or SHA-256.
    """

    def __init__(
        self, operation: Operations, control: AsyncEngine, buckets: Mapping[str, Bucket]
    ) -> None:
        self._operation = operation
        self._control = control
        self._buckets = buckets

    def __contains__(self, name: str) -> bool:
        return name in self._buckets

    async def get(
        self, principal: Principal, name: str, key: str, span: tuple[int, int] | None
    ) -> ObjectContent:
        """Return an object with its bytes or those from the first to the last of `span`.

        Raises:
            NotFound: there is no such object.
            InvalidInput: the range does not fit, or more than 1 MiB is asked for.
        """
        bucket, uri = self._at(name, key)
        async with self._operation(principal, "read", uri, egress=True):
            for _ in range(READS):
                entry = await _found(bucket, key)
                start, end = bounds(span, entry.size)
                content.check_inline(end - start)
                try:
                    chunks = [chunk async for chunk in bucket.engine.get(entry, start, end)]
                except Conflict:
                    continue
                body = content.encode(b"".join(chunks), entry.content_type)
                return ObjectContent(**_info(bucket, entry), **body)
        raise Conflict("the object is replaced faster than it can be read; try again")

    async def open(
        self, principal: Principal, name: str, key: str, span: tuple[int, int] | None
    ) -> tuple[ObjectInfo, AsyncGenerator[bytes]]:
        """Return an object and its bytes as a stream, which ends with Conflict if it is replaced.

        Raises:
            NotFound: there is no such object. InvalidInput: the range does not fit.
        """
        bucket, uri = self._at(name, key)
        async with self._operation(principal, "read", uri, egress=True):
            entry = await _found(bucket, key)
            start, end = bounds(span, entry.size)
        return _info(bucket, entry), bucket.engine.get(entry, start, end)

    async def stat(self, principal: Principal, name: str, key: str) -> ObjectStat:
        """Return what the bucket's server knows of an object.

        Raises:
            NotFound: there is no such object.
        """
        bucket, uri = self._at(name, key)
        async with self._operation(principal, "read", uri, egress=True):
            entry = await _found(bucket, key)
        written = "" if entry.modified is None else iso(entry.modified)
        return ObjectStat(
            **_info(bucket, entry),
            sha256="",
            version=0,
            metadata=dict(entry.metadata),
            tags={},
            created_at=written,
            updated_at=written,
            replaced_at=None,
        )

    async def list(
        self,
        principal: Principal,
        name: str,
        prefix: str | None,
        delimiter: str | None,
        limit: int | None,
        cursor: str | None,
    ) -> ObjectPage:
        """Return a page in the order of the bucket's server; it may hold less than the limit."""
        bucket, size, start = self._buckets[name], names.page_size(limit), names.prefix(prefix)
        fold = names.key(delimiter, "delimiter") if delimiter else None
        base = _base(name)
        seen = policy.seen_outside(principal, "read", base)
        async with self._operation(
            principal, "read", policy.OutsideListing(base + start), egress=True
        ):
            page = await bucket.engine.list(start, fold, size, names.decode_cursor(cursor))
        items: list[ObjectInfo | CommonPrefix] = [
            _info(bucket, entry)
            for entry in page.entries
            if _is_key(entry.key) and _holds(seen, entry.key)
        ]
        items += [CommonPrefix(prefix=name) for name in page.prefixes if _meets(seen, name)]
        items.sort(key=lambda item: str(item.get("key", item.get("prefix"))))
        following = None if page.token is None else names.encode_cursor(page.token)
        return ObjectPage(items=items, next_cursor=following)

    async def put(
        self,
        principal: Principal,
        name: str,
        key: str,
        chunks: AsyncIterable[bytes],
        content_type: str,
        *,
        metadata: Mapping[str, str],
        if_match: str | None,
        if_none_match: str | None,
        idempotency_key: str | None,
    ) -> ObjectInfo:
        """Store an object; with a key, a repetition after a crash may store the same bytes again.

        Raises:
            Conflict: the present object is not what the conditions ask for.
            Forbidden: the bucket is read-only here.
        """
        bucket, uri = self._at(name, key, writable=True)
        upload = Upload(
            chunks,
            content_type,
            _ascii(metadata),
            _etag(if_match, "if_match"),
            _etag(if_none_match, "if_none_match"),
        )

        async def store() -> ObjectInfo:
            return _info(bucket, await bucket.engine.put(key, upload))

        done = await self._write(principal, uri, "write", idempotency_key, store)
        return cast("ObjectInfo", done)

    async def delete(
        self,
        principal: Principal,
        name: str,
        key: str,
        if_match: str | None,
        idempotency_key: str | None,
    ) -> ObjectDeleted:
        """Delete an object and tell whether it was there.

        Raises:
            Conflict: the present object is not what the condition asks for.
            Forbidden: the bucket is read-only here.
        """
        bucket, uri = self._at(name, key, writable=True)
        etag = _etag(if_match, "if_match")

        async def remove() -> ObjectDeleted:
            return ObjectDeleted(deleted=await bucket.engine.delete(key, etag))

        done = await self._write(principal, uri, "delete", idempotency_key, remove)
        return ObjectDeleted(deleted=done["deleted"])

    async def _write(
        self,
        principal: Principal,
        uri: str,
        effect: str,
        key: str | None,
        act: Callable[[], Awaitable[Any]],
    ) -> Any:
        """Journal an intent, act, and journal the outcome: what lies between is no transaction.

        An intent that nothing follows is of a write whose outcome nobody knows.
        """
        label = f"bucket:{secrets.token_hex(8)}"
        operation = self._operation(principal, "write", uri, key=key, labels=(label,), egress=True)
        async with operation as op:
            done = await op.look(self._control, effect)
            if done is not None:
                return done
            await self._journal(op, "intent")
            try:
                answer = await act()
            except (Conflict, InvalidInput):  # nothing was written, for certain
                await self._journal(op, "abort")
                raise
            async with self._control.begin() as tx:
                await op.hold(tx)
                await op.journal(tx, verb=effect)
                if await op.first(tx, effect):
                    await op.remember(tx, answer, effect)
            return answer

    async def _journal(self, op: Operation, verb: str) -> None:
        async with self._control.begin() as tx:
            await op.hold(tx)
            await op.journal(tx, verb=verb)

    def _at(self, name: str, key: str, *, writable: bool = False) -> tuple[Bucket, str]:
        bucket = self._buckets[name]
        names.key(key)
        if any(part in {".", ".."} for part in key.split("/")):
            raise InvalidInput(
                f"key: {key[:80]!r} has a . or .. between slashes, which S3 clients refuse",
                param="key",
            )
        if writable and not bucket.writable:
            raise Forbidden(
                f"bucket: {name!r} is read-only here; its operator may set mode=rw", param="bucket"
            )
        return bucket, policy.Outside(_base(name) + key)


def _base(name: str) -> str:
    return f"object://{name}/"


async def _found(bucket: Bucket, key: str) -> Entry:
    entry = await bucket.engine.stat(key)
    if entry is None:
        raise NotFound(f"object {key!r} does not exist in bucket {bucket.name!r}", param="key")
    return entry


def _info(bucket: Bucket, entry: Entry) -> ObjectInfo:
    return ObjectInfo(
        bucket=bucket.name,
        key=entry.key,
        id=_base(bucket.name) + entry.key,
        size=entry.size,
        etag=entry.etag,
        content_type=entry.content_type or content.media_type(None, entry.key, is_text=False),
    )


def _holds(seen: tuple[str, ...] | None, key: str) -> bool:
    """Tell whether a key is one of the names and `prefix*` forms; None stands for all keys."""
    return seen is None or any(
        item == key or (item.endswith("*") and key.startswith(item[:-1])) for item in seen
    )


def _meets(seen: tuple[str, ...] | None, prefix: str) -> bool:
    """Tell whether something below a prefix may be one of them."""
    return _holds(seen, prefix) or any(item.startswith(prefix) for item in seen or ())


def _is_key(key: str) -> bool:
    """Tell whether a key that others chose can be asked for by name here."""
    try:
        return names.key(key) == key
    except InvalidInput:
        return False


def _etag(condition: str | None, param: str) -> str | None:
    """Return one ETag without its quotes, or `*`; S3 takes no list of them."""
    if condition is None:
        return None
    etag = condition.strip().removeprefix("W/").strip('"')
    if not etag or not etag.isascii() or not etag.isprintable() or {",", '"'} & set(etag):
        raise InvalidInput(f"{param}: give one etag or *; S3 takes no list of them", param=param)
    return etag


def _ascii(metadata: Mapping[str, str]) -> dict[str, str]:
    for name, value in metadata.items():
        if not (name + value).isascii() or not (name + value).isprintable():
            raise InvalidInput(
                f"metadata: {name[:40]!r} is not all visible ASCII, which S3 takes only",
                param="metadata",
            )
    return dict(metadata)
