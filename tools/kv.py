"""Key-value tools."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mcp_server.plugins import Call, tool
from mcp_server.services.kv import KvDeleted, KvItem, KvPage

Namespace = Annotated[str, Field(description="cache/… may be lost")]
Expected = Annotated[
    int | None, Field(description="only if this is the current version; 0: only if absent")
]


@tool(verb="read", read_only=True, destructive=False)
async def kv_get(call: Call, key: str, namespace: Namespace = "default") -> KvItem:
    """Get the JSON value of a key."""
    return await call.services.kv.get(call.principal, namespace, key)


@tool(verb="write")
async def kv_set(
    call: Call,
    key: str,
    value: Annotated[Any, Field(description="any JSON")],
    namespace: Namespace = "default",
    ttl_seconds: float | None = None,
    expected_version: Expected = None,
) -> KvItem:
    """Set a key to a JSON value."""
    return await call.services.kv.set(
        call.principal,
        namespace,
        key,
        value,
        ttl_seconds=ttl_seconds,
        expected_version=expected_version,
        idempotency_key=call.key,
    )


@tool(verb="write")
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
