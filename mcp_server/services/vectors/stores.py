"""The rows of vector stores themselves."""

from __future__ import annotations

import secrets

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import Conflict, NotFound
from mcp_server.storage.sql.schema import STORE_EXPIRED, vector_stores
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

# How exactly it is known when a store was last used: a write for each search would cost more than it.
NOTED_SECONDS = 60
_used = vector_stores.c.last_active_at
_IDLE = (_used < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, NOTED_SECONDS)).label("idle")


async def find_store(tx: AsyncConnection, tenant: str, name: str) -> Store | None:
    """Return a tenant's store by its name or its `vs_` id, one that has expired too."""
    by = vector_stores.c.id if name.startswith(STORE_ID) else vector_stores.c.name
    query = select(vector_stores, _IDLE, STORE_EXPIRED.label("expired"))
    row = (await tx.execute(query.where(vector_stores.c.tenant == tenant, by == name))).first()
    if row is None:
        return None
    return Store(
        *(row.id, row.tenant, row.name, row.embedding_model, row.dimensions),
        *(row.engine, row.shard, row.idle, row.expired),
    )


async def require_store(tx: AsyncConnection, tenant: str, name: str, engine: str) -> Store:
    """Return a tenant's store that an engine holds.

    Raises:
        NotFound: there is none, or it has expired. Conflict: another engine holds it.
    """
    found = await find_store(tx, tenant, name)
    if found is None:
        raise NotFound(f"vector store {name!r} does not exist", param="store")
    require_living(found)
    require_engine(found, engine)
    return found


def require_living(store: Store) -> None:
    """Refuse a store that has expired: what is in it is about to be deleted.

    Raises:
        NotFound: it has expired.
    """
    if store.expired:
        raise NotFound(f"vector store {store.name!r} has expired", param="store")


async def note_use(tx: AsyncConnection, store: Store) -> None:
    """Note that a store is used now, unless that was noted within the last minute."""
    if store.idle and not store.expired:
        now = update(vector_stores).where(vector_stores.c.id == store.id)
        await tx.execute(now.values(last_active_at=func.now()))


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
        NotFound: it has expired.
    """
    store = await find_store(tx, tenant, name)
    if store is not None:
        require_living(store)
        await note_use(tx, store)
        return store
    await admit(tx, tenant, name)
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


async def admit(tx: AsyncConnection, tenant: str, name: str) -> None:
    """Keep a tenant from being erased until `tx` ends, which is to make the store `name` of it.

    Raises:
        Conflict: that is under way.
    """
    if await tx.scalar(_ADMIT, {"tenant": tenant}) is None:
        raise _gone(name)


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
