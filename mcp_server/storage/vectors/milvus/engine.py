"""Dense and sparse vectors in Milvus behind rows in PostgreSQL, which rank words and decide what exists."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import AppError, Conflict, InvalidInput
from mcp_server.storage.vectors import Batch, Finish, Hit, Hits, Query, Store
from mcp_server.storage.vectors.entries import drop_entries, put_entries
from mcp_server.storage.vectors.milvus import fields, garbage, visible
from mcp_server.storage.vectors.milvus.client import MAX_WINDOW, Collections, Found
from mcp_server.storage.vectors.words import located, matching

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DIMENSIONS = 32_768
INSERT_BATCH = 200
COLLECT_SECONDS = 1.0
# Milvus searches new rows one by one until they are flushed.
FLUSH_ROWS, FLUSH_IDLE_SECONDS = 500, 30.0
# A search looks again while documents are replaced under it, or while it sees too few that exist.
ROUNDS = 6
# A walk that must be wider than this, for the sake of no more than some entries of a store: these are read
# instead. On 100,000 a walk of 20,000 takes milvus-lite 0.3 s, one of 100,000 seconds. A tenant's few have a
# partition's smaller graphs.
WIDEST_WALK, SCANNED = 10_000, 1000
# Candidates by words, ranked anew by the rows.
SPARSE_DEPTH = 1000


@dataclass(slots=True)
class _Look:
    """What a search has found so far."""

    found: dict[int, Found] = field(default_factory=dict[int, Found])
    limit: int = 0
    # There may be more than were found.
    full: bool = False

    def add(self, found: Sequence[Found], limit: int) -> None:
        self.found |= {each.id: each for each in found}
        self.limit, self.full = limit, len(found) >= limit


class MilvusVectors:
    """Entries are immutable: a document's new version is a new generation of them."""

    name = "milvus"

    def __init__(self, control: AsyncEngine, collections: Collections) -> None:
        self._control = control
        self._collections = collections
        self._snapshots = control.execution_options(isolation_level="REPEATABLE READ")

    async def prepare(self, batch: Batch) -> None:
        size = len(batch.entries[0].vector)
        if size > MAX_DIMENSIONS:
            raise InvalidInput(
                f"the embedding model gives {size} dimensions, more than the {MAX_DIMENSIONS} that "
                "Milvus holds; choose another model"
            )
        await self._collections.ensure(size)
        async with self._control.begin() as tx:
            await garbage.put(tx, batch.store, [batch.generation], garbage.PREPARED_SECONDS)
        rows = fields.entity_rows(batch)
        for first in range(0, len(rows), INSERT_BATCH):
            await self._collections.insert(size, rows[first : first + INSERT_BATCH])

    async def publish(self, tx: AsyncConnection, batch: Batch) -> None:
        if not await garbage.keep(tx, batch):
            raise Conflict(
                f"document {batch.document!r} was prepared too long ago; try again",
                param="document",
            )
        await put_entries(tx, batch, vectors=False)

    async def discard(self, batch: Batch) -> None:
        try:
            async with self._control.begin() as tx:
                await garbage.put(tx, batch.store, [batch.generation], garbage.LATE_SECONDS)
        except (SQLAlchemyError, OSError) as error:
            logger.info("milvus: an abandoned batch waits for its time (%s)", error)

    async def retract(
        self, tx: AsyncConnection, store: Store, documents: Sequence[str] | None
    ) -> None:
        gone = await drop_entries(tx, store, documents)
        if gone:
            await garbage.put(tx, store, gone)

    async def vectors(self, store: Store, generation: int) -> dict[int, Sequence[float]]:
        expression = f"{fields.within_store(store)} and {fields.in_generations([generation])}"
        found = await self._collections.vectors(store.dimensions, expression)
        return dict(found)

    async def answers(self) -> None:
        await self._collections.answers()

    async def search(self, store: Store, query: Query, finish: Finish[T]) -> T:
        await self._collections.ensure(store.dimensions)
        async with self._control.connect() as tx:
            plan = await visible.plan(tx, store, query)
        words = await self._by_words(store, query) if plan.common else None
        look = _Look()
        if query.vector is not None:
            await self._look(store, query, query.vector, look, plan)
        for left in reversed(range(ROUNDS)):
            async with self._snapshots.connect() as tx:
                await tx.execute(visible.PLANNING)
                seen = await visible.settle(tx, store, query, list(look.found.values()))
                few = len(seen.ids) < query.depth and look.full and look.limit < MAX_WINDOW
                if not left or query.vector is None or not (seen.replaced or few):
                    return await self._finish(tx, store, query, look, seen.ids, words, finish)
            if seen.replaced:
                newer = f"{fields.within_store(store)} and {fields.in_generations(seen.replaced)}"
                named = replace(plan, expression=newer)
                await self._ask(store, query, look, named, query.depth)
            if few:
                await self._ask(store, query, look, plan, min(MAX_WINDOW, 8 * look.limit))
        raise AssertionError("every round ends")

    async def _finish(
        self,
        tx: AsyncConnection,
        store: Store,
        query: Query,
        look: _Look,
        ids: set[int],
        words: Sequence[int] | None,
        finish: Finish[T],
    ) -> T:
        hits = Hits()
        if query.tokens:
            hits = await matching(tx, await located(tx, store), query, query.tokens, words)
        if query.vector is not None:
            dense = [Hit(each.id, each.score) for each in look.found.values() if each.id in ids]
            dense.sort(key=lambda hit: (-hit.score, hit.id))
            hits = replace(hits, dense=tuple(dense[: query.depth]))
        return await finish(tx, hits)

    async def _look(
        self,
        store: Store,
        query: Query,
        vector: Sequence[float],
        look: _Look,
        plan: visible.Plan,
    ) -> None:
        width = plan.width
        if plan.within and width.ef > WIDEST_WALK and width.admitted <= SCANNED:
            every = await self._collections.scan(store.dimensions, vector, plan.expression)
            if len(every) < MAX_WINDOW:
                look.add(every, MAX_WINDOW)
                return
        await self._ask(store, query, look, plan, 2 * query.depth)
        if len(look.found) >= min(look.limit, width.admitted):
            return
        # What may be seen lies far from the query: the walk ended before it came there.
        if width.admitted <= SCANNED:
            every = await self._collections.scan(store.dimensions, vector, plan.expression)
            look.add(every, MAX_WINDOW)
        elif width.ef < width.held:
            whole = replace(plan, width=replace(width, ef=width.held))
            await self._ask(store, query, look, whole, look.limit)

    async def _ask(
        self, store: Store, query: Query, look: _Look, plan: visible.Plan, limit: int
    ) -> None:
        parameters = {"metric_type": "COSINE", "params": {"ef": max(plan.width.ef, limit)}}
        found = await self._collections.search(
            *(store.dimensions, "dense", list(query.vector or ()), plan.expression, limit),
            parameters,
        )
        look.add(found, limit)

    async def _by_words(self, store: Store, query: Query) -> list[int]:
        """Return the best chunks by the product of rarity and weight; the rows rank them anew."""
        async with self._control.connect() as tx:
            rarity = await visible.rarity(tx, store, query.tokens or ())
        if not rarity:
            return []
        vector = {fields.sparse_place(token): weight for token, weight in rarity.items()}
        expression = fields.restricted(store, query.restriction)
        found = await self._collections.search(
            store.dimensions, "sparse", vector, expression, SPARSE_DEPTH, {"metric_type": "IP"}
        )
        return [each.id for each in found]

    async def collect(self) -> int:
        """Delete what no row names any more, some of it; return how many generations."""
        total = 0
        for each in await garbage.take(self._control):
            await self._collections.ensure(each.store.dimensions)
            listed = fields.in_generations(each.generations)
            expression = f"{fields.within_store(each.store)} and {listed}"
            await self._collections.delete(each.store.dimensions, expression)
            await garbage.forget(self._control, each)
            total += len(each.generations)
        return total

    async def flush(self) -> None:
        await self._collections.flush(FLUSH_ROWS, FLUSH_IDLE_SECONDS)


@asynccontextmanager
async def keeping(engine: MilvusVectors) -> AsyncGenerator[None]:
    """Collect and flush while the context is open."""

    async def keep() -> None:
        while True:
            try:
                while await engine.collect():
                    pass
                await engine.flush()
            except (AppError, SQLAlchemyError, OSError) as error:
                logger.warning("milvus: it is not tidied yet (%s)", error)
            await asyncio.sleep(COLLECT_SECONDS)

    keeper = asyncio.create_task(keep(), name="milvus-keeping")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
