"""Objects of existing buckets of the operator's, which only the operator and scopes that name them reach."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import ConfigurationError, Conflict, Forbidden, InvalidInput, NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.services import names
from mcp_server.services.buckets.terms import (
    ascii_only,
    base_of,
    etag,
    holds,
    info,
    is_key,
    meets,
)
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
from mcp_server.storage.buckets import SETTING, Bucket, Entry, Upload
from mcp_server.timestamps import iso

# A name that tenants use already would hide what they have: index lookups, one for each tenant.
_SHADOWED = text(
    """
    select bucket from tenants, lateral (
        select bucket from objects
        where objects.tenant = tenants.name and bucket = any(cast(:names as text[])) limit 1
    ) as found
    limit 1
    """
)
# A content that changes while it is read is read anew so often.
READS = 3


async def refuse_shadowing(control: AsyncEngine, names_given: Iterable[str]) -> None:
    """Raise ConfigurationError if a tenant has objects in a bucket of a configured name."""
    given = {"names": sorted(names_given)}
    async with control.connect() as connection:
        shadowed = (await connection.execute(_SHADOWED, given)).scalar_one_or_none()
    if shadowed is not None:
        raise ConfigurationError(
            f"{SETTING}: tenants have objects in a bucket {shadowed!r} of their own, which this name "
            "would hide; choose another name"
        )


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
                return ObjectContent(**info(bucket, entry), **body)
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
        return info(bucket, entry), bucket.engine.get(entry, start, end)

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
            **info(bucket, entry),
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
        base = base_of(name)
        seen = policy.seen_outside(principal, "read", base)
        async with self._operation(
            principal, "read", policy.OutsideListing(base + start), egress=True
        ):
            page = await bucket.engine.list(start, fold, size, names.decode_cursor(cursor))
        items: list[ObjectInfo | CommonPrefix] = [
            info(bucket, entry)
            for entry in page.entries
            if is_key(entry.key) and holds(seen, entry.key)
        ]
        items += [CommonPrefix(prefix=name) for name in page.prefixes if meets(seen, name)]
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
            ascii_only(metadata),
            etag(if_match, "if_match"),
            etag(if_none_match, "if_none_match"),
        )

        async def store() -> ObjectInfo:
            return info(bucket, await bucket.engine.put(key, upload))

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
        condition = etag(if_match, "if_match")

        async def remove() -> ObjectDeleted:
            return ObjectDeleted(deleted=await bucket.engine.delete(key, condition))

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
        return bucket, policy.Outside(base_of(name) + key)


async def _found(bucket: Bucket, key: str) -> Entry:
    entry = await bucket.engine.stat(key)
    if entry is None:
        raise NotFound(f"object {key!r} does not exist in bucket {bucket.name!r}", param="key")
    return entry
