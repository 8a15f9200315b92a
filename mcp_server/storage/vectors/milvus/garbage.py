"""Entries in Milvus that no row names: written down before they are made, and collected when they are due."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ARRAY, BigInteger, bindparam, delete, func, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.storage.sql.document_tables import vector_garbage
from mcp_server.storage.vectors import Batch, Store

# How long a prepared batch may wait for its transaction. A unit of work takes seconds.
PREPARED_SECONDS = 3600.0
# How long a server may still be at an insert whose call has ended: a delete before it would find nothing.
LATE_SECONDS = 120.0
COLLECT_BATCH = 200

_PUT = text(
    """
    insert into vector_garbage (generation, store, tenant, dimensions, due_at)
    select generation, :store, :tenant, :dimensions,
        clock_timestamp() + make_interval(secs => :seconds)
    from unnest(cast(:generations as bigint[])) as gone (generation)
    on conflict (generation) do update set due_at = excluded.due_at
    """
).bindparams(bindparam("generations", type_=ARRAY(BigInteger)))

# Marked in a transaction of its own: from then on it cannot be published.
_TAKE = text(
    """
    update vector_garbage set collecting = true where generation in (
        select generation from vector_garbage where due_at <= clock_timestamp()
        order by due_at limit :batch for update skip locked
    )
    returning generation, store, tenant, dimensions
    """
)


@dataclass(frozen=True, slots=True)
class Garbage:
    """Generations of one store that are to be deleted."""

    store: Store
    generations: list[int]


async def put(
    tx: AsyncConnection, store: Store, generations: Iterable[int], seconds: float = 0
) -> None:
    """Have generations collected after some seconds, unless they are published before."""
    await tx.execute(
        _PUT,
        {
            "store": store.id,
            "tenant": store.tenant,
            "dimensions": store.dimensions,
            "generations": list(generations),
            "seconds": seconds,
        },
    )


async def keep(tx: AsyncConnection, batch: Batch) -> bool:
    """Take a batch off the list when `tx` commits; False: it is collected already."""
    kept = delete(vector_garbage).where(
        vector_garbage.c.generation == batch.generation, vector_garbage.c.collecting.is_(False)
    )
    return (await tx.execute(kept)).rowcount == 1


async def take(control: AsyncEngine) -> list[Garbage]:
    """Return what is due, some of it, by store; after a crash it is taken again."""
    async with control.begin() as tx:
        rows = (await tx.execute(_TAKE, {"batch": COLLECT_BATCH})).all()
    by_store: dict[Store, list[int]] = defaultdict(list)
    for row in rows:
        by_store[Store(row.store, row.tenant, "", "", row.dimensions)].append(row.generation)
    return [Garbage(store, generations) for store, generations in by_store.items()]


async def forget(control: AsyncEngine, garbage: Garbage) -> None:
    """Take what is deleted off the list."""
    gone = bindparam("gone", garbage.generations, type_=ARRAY(BigInteger))
    async with control.begin() as tx:
        await tx.execute(
            delete(vector_garbage).where(vector_garbage.c.generation == func.any(gone))
        )
