"""A Milvus server of a test's own, and what stands in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pymilvus import AsyncMilvusClient
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.storage.sql.document_tables import vector_garbage
from mcp_server.storage.vectors.milvus.client import Address, Collections
from mcp_server.storage.vectors.milvus.engine import MilvusVectors
from mcp_server.storage.vectors.milvus.fields import tenant_key
from mcp_server.storage.vectors.milvus.opening import collection_prefix, parse


@asynccontextmanager
async def without_keeper(url: str, control: AsyncEngine) -> AsyncIterator[MilvusVectors]:
    """Yield the engine without its background work, which a test then does by hand."""
    collections = Collections(parse(url), await collection_prefix(control))
    await collections.connect(20)
    try:
        yield MilvusVectors(control, collections)
    finally:
        await collections.close()


async def entities(url: str, control: AsyncEngine, tenant: str) -> list[dict[str, Any]]:
    """Return every entry of a tenant that Milvus holds, whoever may see it."""
    address: Address = parse(url)
    client: Any = AsyncMilvusClient(address.uri, dedicated=True)
    try:
        prefix = await collection_prefix(control)
        found: list[dict[str, Any]] = []
        for name in await client.list_collections():
            if name.startswith(prefix):
                found += await client.query(
                    name,
                    filter=f'tenant == "{tenant_key(tenant)}"',
                    output_fields=["id", "generation"],
                    consistency_level="Strong",
                )
        return found
    finally:
        await client.close()


async def waiting(control: AsyncEngine, tenant: str) -> int:
    """Return how many generations of a tenant wait for their collection or their publication."""
    async with control.connect() as tx:
        query = select(func.count()).where(vector_garbage.c.tenant == tenant)
        return await tx.scalar(query) or 0
