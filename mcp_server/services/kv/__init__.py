"""Key-value: JSON values with versions, conditions, expiry and leases, durable or in the cache."""

from __future__ import annotations

from mcp_server.services.kv.items import (
    KvDeleted,
    KvItem,
    KvLease,
    KvMany,
    KvPage,
    KvReleased,
)
from mcp_server.services.kv.keeper import keeping_kv
from mcp_server.services.kv.service import KvService

__all__ = [
    "KvDeleted",
    "KvItem",
    "KvLease",
    "KvMany",
    "KvPage",
    "KvReleased",
    "KvService",
    "keeping_kv",
]
