"""Earlier versions of documents: kept for undo when they are replaced, and dropped when they are old."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, Row, Text, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.storage.sql.document_tables import document_versions
from mcp_server.storage.vectors import Store

PURGE_BATCH = 500

_KEEP = text(
    """
    insert into document_versions
        (store, document, version, tenant, body, metadata, title, source, media_type, pieces)
    select d.store, d.document, d.version, d.tenant, whole.body, d.metadata, d.title, d.source,
        d.media_type, whole.pieces
    from documents d, lateral (
        select coalesce(string_agg(c.body, '' order by c.chunk), '') as body,
            coalesce(jsonb_agg(
                jsonb_build_array(c.start_at, c.end_at, c.page, c.heading, c.lead_at) order by c.chunk
            ), '[]') as pieces
        from chunks c where c.store = d.store and c.document = d.document
    ) whole
    where d.store = :store and d.tenant = :tenant and d.document = any(:names)
    on conflict do nothing
    """
).bindparams(bindparam("names", type_=ARRAY(Text)))

_PURGE = text(
    """
    delete from document_versions where ctid = any(array(
        select ctid from document_versions
        where replaced_at < clock_timestamp() - make_interval(secs => :seconds)
        limit :batch for update skip locked
    ))
    """
)


async def keep(tx: AsyncConnection, store: Store, names: Sequence[str]) -> None:
    """Keep documents as they are, before `tx` replaces or deletes them; it holds their locks."""
    at = {"store": store.id, "tenant": store.tenant}
    await tx.execute(_KEEP, at | {"names": list(names)})


async def find(tx: AsyncConnection, store: Store, name: str, version: int) -> Row[Any] | None:
    """Return an earlier version of a document, or None if it is not kept any more."""
    query = select(document_versions).where(
        document_versions.c.store == store.id,
        document_versions.c.tenant == store.tenant,
        document_versions.c.document == name,
        document_versions.c.version == version,
    )
    return (await tx.execute(query)).first()


async def purge(control: AsyncEngine, seconds: float) -> int:
    """Drop what was replaced longer ago, in batches; return how many versions."""
    total = 0
    while True:
        async with control.begin() as tx:
            gone = await tx.execute(_PURGE, {"seconds": seconds, "batch": PURGE_BATCH})
        total += gone.rowcount
        if gone.rowcount < PURGE_BATCH:
            return total
