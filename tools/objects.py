"""Object tools."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_server.plugins import Call, Preview, tool
from mcp_server.services.objects import (
    ObjectContent,
    ObjectDeleted,
    ObjectInfo,
    ObjectPage,
    ObjectStat,
    VersionPage,
)
from mcp_server.services.objects.links import LinksRevoked, ObjectLink

SHOWN = Preview("object_stat", ("key", "bucket"))


@tool(verb="write", preview=SHOWN)
async def object_put(
    call: Call,
    key: str,
    bucket: str = "default",
    text: Annotated[str | None, Field(description="this or base64")] = None,
    base64: str | None = None,
    content_type: Annotated[str | None, Field(description="by default from the key")] = None,
    if_none_match: Annotated[
        str | None, Field(description="*: only if absent; an etag: only if another")
    ] = None,
    if_match: Annotated[str | None, Field(description="only if this is its etag")] = None,
    metadata: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> ObjectInfo:
    """Store an object."""
    return await call.services.objects.put(
        call.principal,
        bucket,
        key,
        text=text,
        base64=base64,
        content_type=content_type,
        if_match=if_match,
        if_none_match=if_none_match,
        metadata=metadata,
        tags=tags,
        idempotency_key=call.key,
    )


@tool(verb="read", read_only=True, destructive=False)
async def object_get(
    call: Call,
    key: str,
    bucket: str = "default",
    range: Annotated[  # noqa: A002 - the contract's name
        list[int] | None,
        Field(description="[first, last] bytes, inclusive", min_length=2, max_length=2),
    ] = None,
    version: Annotated[int | None, Field(description="an earlier one of object_versions")] = None,
) -> ObjectContent:
    """Get an object: text as text, other bytes as base64."""
    span = None if range is None else (range[0], range[1])
    return await call.services.objects.get(call.principal, bucket, key, range=span, version=version)


@tool(verb="read", read_only=True, destructive=False)
async def object_stat(
    call: Call, key: str, bucket: str = "default", version: int | None = None
) -> ObjectStat:
    """Get all that is known of an object but its bytes: sha256, version, metadata, tags, times."""
    return await call.services.objects.stat(call.principal, bucket, key, version=version)


@tool(verb="read", read_only=True, destructive=False)
async def object_versions(
    call: Call,
    key: str,
    bucket: str = "default",
    limit: int | None = None,
    cursor: str | None = None,
) -> VersionPage:
    """List an object's versions, newest first: the present one, and earlier ones as long as they are kept."""
    return await call.services.objects.versions(
        call.principal, bucket, key, limit=limit, cursor=cursor
    )


@tool(verb="read", read_only=True, destructive=False)
async def object_list(
    call: Call,
    bucket: str = "default",
    prefix: str | None = None,
    delimiter: Annotated[
        str | None, Field(description="folds keys that hold it after prefix, like / folders")
    ] = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> ObjectPage:
    """List objects in byte order of their keys."""
    return await call.services.objects.list(
        call.principal, bucket, prefix=prefix, delimiter=delimiter, limit=limit, cursor=cursor
    )


@tool(verb="write")
async def object_copy(
    call: Call,
    key: str,
    to_key: str,
    bucket: str = "default",
    to_bucket: Annotated[str | None, Field(description="by default the same")] = None,
    version: Annotated[int | None, Field(description="of the source")] = None,
    source_if_match: Annotated[
        str | None, Field(description="only if this is the source's etag")
    ] = None,
    if_none_match: Annotated[
        str | None, Field(description="*: only if the target is absent; an etag: only if another")
    ] = None,
    if_match: Annotated[str | None, Field(description="only if this is the target's etag")] = None,
) -> ObjectInfo:
    """Copy an object, or an earlier version of it, with metadata and tags; no bytes move."""
    return await call.services.objects.copy(
        call.principal,
        bucket,
        key,
        to_bucket or bucket,
        to_key,
        version=version,
        source_if_match=source_if_match,
        if_match=if_match,
        if_none_match=if_none_match,
        idempotency_key=call.key,
    )


@tool(verb="write", preview=SHOWN)
async def object_tag(
    call: Call,
    key: str,
    bucket: str = "default",
    metadata: Annotated[
        dict[str, str] | None, Field(description="replaces all; left out: stays")
    ] = None,
    tags: dict[str, str] | None = None,
    if_match: str | None = None,
) -> ObjectInfo:
    """Replace an object's metadata or tags: a new version with the same bytes."""
    return await call.services.objects.tag(
        call.principal,
        bucket,
        key,
        metadata=metadata,
        tags=tags,
        if_match=if_match,
        idempotency_key=call.key,
    )


@tool(verb="write", preview=SHOWN)
async def object_delete(
    call: Call, key: str, bucket: str = "default", if_match: str | None = None
) -> ObjectDeleted:
    """Delete an object."""
    return await call.services.objects.delete(
        call.principal, bucket, key, if_match=if_match, idempotency_key=call.key
    )


@tool(verb="read", destructive=False, egress=True)
async def object_link(
    call: Call,
    key: str,
    bucket: str = "default",
    method: Literal["GET", "PUT"] = "GET",
    ttl_seconds: Annotated[float | None, Field(description="300 by default, 3600 at most")] = None,
    content_type: Annotated[str | None, Field(description="of what is PUT")] = None,
    if_none_match: Annotated[str | None, Field(description="for PUT, as in object_put")] = None,
    if_match: str | None = None,
    max_bytes: Annotated[int | None, Field(description="for PUT")] = None,
) -> ObjectLink:
    """Make a short-lived URL to get an object without a key, or to put it once."""
    return await call.services.links.make(
        call.principal,
        bucket,
        key,
        method=method,
        ttl_seconds=ttl_seconds,
        content_type=content_type,
        if_match=if_match,
        if_none_match=if_none_match,
        max_bytes=max_bytes,
    )


@tool(verb="read", destructive=False)
async def object_link_revoke(
    call: Call,
    key: str,
    bucket: str = "default",
    method: Literal["GET", "PUT"] = "GET",
    url: Annotated[str | None, Field(description="by default all of this object")] = None,
) -> LinksRevoked:
    """End your links to an object at once."""
    return await call.services.links.revoke(call.principal, bucket, key, method=method, url=url)
