"""The rows of vector stores themselves."""

from __future__ import annotations

import secrets

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import Conflict, NotFound
from mcp_server.storage.sql.schema import vector_stores
from mcp_server.storage.vectors import Store

STORE_ID = "vs_"

# What is published after an erasure has been at the engine would stay there with no row that names it.
_HOLD = text(
    """
    select s.id from vector_stores s join tenants t on t.name = s.tenant
    where s.id = :id and t.erasing_at is null for key share of s for share of t
    """
)
_ADMIT = text("select 1 from tenants where name = :tenant and erasing_at is null for share")


async def find_store(tx: AsyncConnection, tenant: str, name: str) -> Store | None:
    """Return a tenant's store by its name or its `vs_` id."""
    by = vector_stores.c.id if name.startswith(STORE_ID) else vector_stores.c.name
    found = await tx.execute(
        select(vector_stores).where(vector_stores.c.tenant == tenant, by == name)
    )
    row = found.first()
    if row is None:
        return None
    model, dimensions = row.embedding_model, row.dimensions
    return Store(row.id, row.tenant, row.name, model, dimensions, row.engine, row.shard)


async def require_store(tx: AsyncConnection, tenant: str, name: str, engine: str) -> Store:
    """Return a tenant's store that an engine holds.

    Raises:
        NotFound: there is none. Conflict: another engine holds it.
    """
    found = await find_store(tx, tenant, name)
    if found is None:
        raise NotFound(f"vector store {name!r} does not exist", param="store")
    require_engine(found, engine)
    return found


def require_engine(store: Store, engine: str) -> None:
    """Refuse a store whose vectors another engine holds: it would look empty.

    Raises:
        Conflict: another engine holds it.
    """
    if store.engine != engine:
        raise Conflict(
            f"vector store {store.name!r} is held by the engine {store.engine}, this server runs "
            f"{engine}; set ISTHMUS_VECTORS_URL back, or move the store by export and import",
            param="store",
        )


async def make_store(
    tx: AsyncConnection, tenant: str, name: str, model: str, dimensions: int, engine: str
) -> Store:
    """Return the store of a name, made now unless somebody else just made it.

    Raises:
        Conflict: it was made and deleted in this moment, or its tenant is being erased.
    """
    store = await find_store(tx, tenant, name)
    if store is not None:
        return store
    if await tx.scalar(_ADMIT, {"tenant": tenant}) is None:
        raise _gone(name)
    values = {
        "id": STORE_ID + secrets.token_hex(12),
        "tenant": tenant,
        "name": name,
        "embedding_model": model,
        "dimensions": dimensions,
        "engine": engine,
    }
    await tx.execute(upsert(vector_stores).values(values).on_conflict_do_nothing())
    store = await find_store(tx, tenant, name)
    if store is None:
        raise _gone(name)
    return store


async def hold_store(tx: AsyncConnection, store: Store) -> None:
    """Keep a store from being deleted, and its tenant from being erased, until `tx` ends.

    Raises:
        Conflict: that is done already, or under way.
    """
    if await tx.scalar(_HOLD, {"id": store.id}) is None:
        raise _gone(store.name)


async def delete_store(tx: AsyncConnection, store: Store) -> bool:
    """Delete a store's row with its documents, their chunks and their earlier versions."""
    gone = delete(vector_stores).where(
        vector_stores.c.id == store.id, vector_stores.c.tenant == store.tenant
    )
    return (await tx.execute(gone)).rowcount > 0


def _gone(name: str) -> Conflict:
    return Conflict(f"vector store {name!r} was deleted meanwhile; try again", param="store")
