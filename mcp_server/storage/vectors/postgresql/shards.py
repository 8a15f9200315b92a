"""Gives a store that has grown a shard and an index of its own, in the background, step by step.

Each step is a transaction or can be begun anew, so a crash in between costs only time: `index_state` says what
is done. Nobody waits: rows move a few documents at a time, and the index is built beside the writers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.storage.sql.schema import vector_stores
from mcp_server.storage.vectors.postgresql.dense import indexed_as

logger = logging.getLogger(__name__)

# An exact scan of 20,000 vectors takes as long as a model needs to embed the query.
OWN_SHARD_CHUNKS = 20_000
MEASURE_SECONDS = 60.0
DOCUMENTS_AT_ONCE = 50
_LOCK = 0x76656373  # "vecs"

_GROWN = text(
    """
    select v.store, v.chunks, s.dimensions from (
        select store, count(*) as chunks from chunk_vectors where shard = 0
        group by store having count(*) > :most
    ) v join vector_stores s on s.id = v.store
    where s.engine = 'postgresql' and s.index_state = 'none'
    order by v.chunks
    """
)
_UNFINISHED = text(
    "select id, shard, dimensions, index_state from vector_stores"
    " where index_state in ('moving', 'building') order by shard"
)
# Whoever changes a document holds its row: what is held moves later, and nobody waits for it.
_MOVE = text(
    """
    with few as (
        select d.store, d.document from documents d
        where d.store = :store and d.document > :after and exists (
            select from chunk_vectors v
            where v.shard = 0 and v.store = d.store and v.document = d.document)
        order by d.document limit :limit for update of d skip locked
    ), moved as (
        update chunk_vectors v set shard = :shard from few
        where v.shard = 0 and v.store = few.store and v.document = few.document
    )
    select max(document) from few
    """
)
_LEFT = text("select exists(select from chunk_vectors where shard = 0 and store = :store)")
_ORPHANS = text(
    """
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'chunk_vectors'::regclass and c.relname <> 'chunk_vectors_0'
        and not exists (
            select from vector_stores s where 'chunk_vectors_' || s.shard = c.relname)
    """
)


class Shards:
    """Measures stores and gives those that have grown a shard of their own; one process at a time."""

    def __init__(self, control: AsyncEngine, most: int = OWN_SHARD_CHUNKS) -> None:
        self._control = control
        self._alone = control.execution_options(isolation_level="AUTOCOMMIT")
        self._most = most

    async def run(self) -> None:
        """Do all that is to be done now, unless another process is at it."""
        async with self._alone.connect() as keeper:
            if not await keeper.scalar(text("select pg_try_advisory_lock(:key)"), {"key": _LOCK}):
                return
            try:
                await self._run(keeper)
            finally:
                await keeper.execute(text("select pg_advisory_unlock(:key)"), {"key": _LOCK})

    async def _run(self, keeper: AsyncConnection) -> None:
        for row in (await keeper.execute(_GROWN, {"most": self._most})).all():
            if indexed_as(row.dimensions) is not None:
                await self._begin(row.store, row.chunks)
        for row in (await keeper.execute(_UNFINISHED)).all():
            if row.index_state == "moving":
                await self._move(row.id, row.shard)
            await self._build(keeper, row.id, row.shard, row.dimensions)
        for name in (await keeper.scalars(_ORPHANS)).all():
            await keeper.execute(
                text(f"alter table chunk_vectors detach partition {name} concurrently")
            )
            await keeper.execute(text(f"drop table {name}"))

    async def _begin(self, store: str, chunks: int) -> None:
        async with self._control.begin() as tx:
            shard = await tx.scalar(text("select nextval('vector_shards')"))
            table = f"chunk_vectors_{shard:d}"
            await tx.execute(
                text(
                    f"create table {table} (like chunk_vectors including defaults including indexes)"
                )
            )
            # As in the shared shard: vectors and tokens stay in the row.
            await tx.execute(text(f"alter table {table} set (toast_tuple_target = 8160)"))
            await tx.execute(
                text(
                    f"alter table chunk_vectors attach partition {table} for values in ({shard:d})"
                )
            )
            await tx.execute(
                update(vector_stores)
                .where(vector_stores.c.id == store)
                .values(
                    shard=shard,
                    index_state="moving",
                    measured_chunks=chunks,
                    measured_at=text("clock_timestamp()"),
                )
            )
        logger.info("vector store %s has %s chunks: it moves to a shard of its own", store, chunks)

    async def _move(self, store: str, shard: int) -> None:
        after: str | None = ""
        while True:
            async with self._control.begin() as tx:
                at = {"store": store, "shard": shard, "after": after, "limit": DOCUMENTS_AT_ONCE}
                after = await tx.scalar(_MOVE, at)
            if after is None:
                async with self._control.connect() as tx:
                    if not await tx.scalar(_LEFT, {"store": store}):
                        break
                await asyncio.sleep(0.05)  # the rest is being changed right now
                after = ""
        await self._settle(store, "building")

    async def _build(
        self, keeper: AsyncConnection, store: str, shard: int, dimensions: int
    ) -> None:
        how = indexed_as(dimensions)
        assert how is not None, "only what can be indexed has a shard"  # noqa: S101
        table, index = f"chunk_vectors_{shard:d}", f"chunk_vectors_{shard:d}_nearest"
        # One that a crash left unfinished counts for nothing.
        await keeper.execute(text(f"drop index concurrently if exists {index}"))
        await keeper.execute(text("set maintenance_work_mem = '256MB'"))
        try:
            await keeper.execute(
                text(
                    f"create index concurrently {index} on {table} using hnsw"
                    f" ((embedding::{how.type}) {how.operators}) with (m = 16, ef_construction = 100)"
                )
            )
        finally:
            await keeper.execute(text("reset maintenance_work_mem"))
        await keeper.execute(text(f"analyze {table}"))
        await self._settle(store, "ready")

    async def _settle(self, store: str, state: str) -> None:
        async with self._control.begin() as tx:
            await tx.execute(
                update(vector_stores).where(vector_stores.c.id == store).values(index_state=state)
            )


@asynccontextmanager
async def keeping(shards: Shards) -> AsyncGenerator[None]:
    """Measure every minute while the context is open."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(MEASURE_SECONDS)
            try:
                await shards.run()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("vectors: a grown store is not indexed yet (%s)", error)

    keeper = asyncio.create_task(keep(), name="vector-shards")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
