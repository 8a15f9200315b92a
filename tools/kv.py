"""Key-value tools."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mcp_server.plugins import Call, Preview, tool
from mcp_server.services.kv import KvDeleted, KvItem, KvLease, KvMany, KvPage, KvReleased

Namespace = Annotated[str, Field(description="cache/… may be lost")]
Expected = Annotated[
    int | None, Field(description="only if this is the current version; 0: only if absent")
]

SHOWN = Preview("kv_get", ("key", "namespace"))


@tool(verb="read", read_only=True, destructive=False)
async def kv_get(call: Call, key: str, namespace: Namespace = "default") -> KvItem:
    """Get the JSON value of a key."""
    return await call.services.kv.get(call.principal, namespace, key)


@tool(verb="read", read_only=True, destructive=False)
async def kv_get_many(call: Call, keys: list[str], namespace: Namespace = "default") -> KvMany:
    """Get the values of up to 100 keys as of one moment."""
    return await call.services.kv.get_many(call.principal, namespace, keys)


@tool(verb="write", preview=SHOWN)
async def kv_set(
    call: Call,
    key: str,
    value: Annotated[Any, Field(description="any JSON")],
    namespace: Namespace = "default",
    ttl_seconds: float | None = None,
    expected_version: Expected = None,
    fence: Annotated[
        int | None, Field(description="only while the lease of this token is held")
    ] = None,
) -> KvItem:
    """Set a key to a JSON value."""
    return await call.services.kv.set(
        call.principal,
        namespace,
        key,
        value,
        ttl_seconds=ttl_seconds,
        expected_version=expected_version,
        fence=fence,
        idempotency_key=call.key,
    )


@tool(verb="write", destructive=False, preview=SHOWN)
async def kv_increment(
    call: Call,
    key: str,
    by: int | float = 1,
    namespace: Namespace = "default",
    ttl_seconds: Annotated[
        float | None, Field(description="for a new key; one that is there keeps its own")
    ] = None,
) -> KvItem:
    """Add to the number of a key, exactly; an absent key counts as 0."""
    return await call.services.kv.increment(
        call.principal,
        namespace,
        key,
        by,
        ttl_seconds=ttl_seconds,
        idempotency_key=call.key,
    )


@tool(verb="write", preview=SHOWN)
async def kv_delete(
    call: Call, key: str, namespace: Namespace = "default", expected_version: Expected = None
) -> KvDeleted:
    """Delete a key."""
    return await call.services.kv.delete(
        call.principal,
        namespace,
        key,
        expected_version=expected_version,
        idempotency_key=call.key,
    )


@tool(verb="read", read_only=True, destructive=False)
async def kv_list(
    call: Call,
    prefix: str | None = None,
    namespace: Namespace = "default",
    limit: int | None = None,
    cursor: str | None = None,
) -> KvPage:
    """List keys in byte order, with their values."""
    return await call.services.kv.list(
        call.principal, namespace, prefix=prefix, limit=limit, cursor=cursor
    )


@tool(verb="write", destructive=False)
async def kv_lease(
    call: Call,
    key: str,
    ttl_seconds: float,
    owner: Annotated[str | None, Field(description="shown to others")] = None,
    namespace: Namespace = "default",
    token: Annotated[int | None, Field(description="prolong the lease held under it")] = None,
) -> KvLease:
    """Take a lease that nobody holds, or prolong one. Its token fences writes and rises for ever."""
    return await call.services.kv.lease(
        call.principal,
        namespace,
        key,
        ttl_seconds,
        owner=owner,
        token=token,
        idempotency_key=call.key,
    )


@tool(verb="write", destructive=False)
async def kv_release(
    call: Call, key: str, token: int, namespace: Namespace = "default"
) -> KvReleased:
    """Give a lease back."""
    return await call.services.kv.release(
        call.principal, namespace, key, token, idempotency_key=call.key
    )
