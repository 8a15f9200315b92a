"""Object tools."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mcp_server.plugins import Call, tool
from mcp_server.services.objects import ObjectContent, ObjectDeleted, ObjectInfo, ObjectPage


@tool(verb="write")
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
) -> ObjectContent:
    """Get an object: text as text, other bytes as base64."""
    return await call.services.objects.get(
        call.principal, bucket, key, range=None if range is None else (range[0], range[1])
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
async def object_delete(call: Call, key: str, bucket: str = "default") -> ObjectDeleted:
    """Delete an object."""
    return await call.services.objects.delete(call.principal, bucket, key, idempotency_key=call.key)
