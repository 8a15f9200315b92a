"""The vectors nearest to a query's: by an exact scan of the store's rows, or by the index of its own shard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Double,
    Select,
    Text,
    cast,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import UserDefinedType

from mcp_server.storage.sql.schema import Vector, chunk_vectors, vector_stores
from mcp_server.storage.vectors import Hit, Query, Store
from mcp_server.storage.vectors.entries import vector_text
from mcp_server.storage.vectors.words import restricted, within

_FLOAT: Double[float] = Double()

# A filter that admits fewer chunks is answered exactly: on 100,000 vectors of 128 dimensions that takes
# 8 ms for 5,000 chunks, while the index has to look at most of itself to find the few that fit.
EXACT_CHUNKS = 5000
# How many neighbours a walk over the index keeps in view: 0.99 of the ten best on 100,000 vectors.
EF_SEARCH, MAX_EF_SEARCH = 200, 1000
MAX_SCANNED = 40_000


@dataclass(frozen=True, slots=True)
class IndexedAs:
    """How vectors of some length are indexed: the type that they are cast to, and its class of operators."""

    type: str
    operators: str


class Sized(UserDefinedType[str]):
    """A vector of one type and length."""

    cache_ok = True

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def get_col_spec(self, **_: Any) -> str:
        return self.spec


def indexed_as(dimensions: int) -> IndexedAs | None:
    """Return how vectors are indexed, None if they are too long for any index of pgvector."""
    if dimensions <= 2000:
        return IndexedAs(f"vector({dimensions:d})", "vector_cosine_ops")
    if dimensions <= 4000:
        return IndexedAs(f"halfvec({dimensions:d})", "halfvec_cosine_ops")
    return None


async def nearest(
    tx: AsyncConnection, store: Store, query: Query, vector: Sequence[float]
) -> tuple[Hit, ...]:
    """Return the best hits of a query by cosine similarity, ties by id."""
    how = indexed_as(store.dimensions)
    if store.shard and how and await _is_ready(tx, store) and await _admits_many(tx, store, query):
        indexed = await _by_index(tx, store, query, vector, how)
        # Rows that were written while the shard was made may still stand among the small stores'.
        rest = await _exactly(tx, store, query, vector, shard=0)
        both = sorted((*indexed, *rest), key=lambda hit: (-hit.score, hit.id))
        return tuple(both[: query.depth])
    return await _exactly(tx, store, query, vector)


async def _is_ready(tx: AsyncConnection, store: Store) -> bool:
    query = select(vector_stores.c.index_state).where(vector_stores.c.id == store.id)
    return await tx.scalar(query) == "ready"


async def _admits_many(tx: AsyncConnection, store: Store, query: Query) -> bool:
    restriction = query.restriction
    if restriction.filter is None and restriction.prefixes is None:
        return True
    some = restricted(select(chunk_vectors.c.id).where(within(store)), restriction)
    counted = select(func.count()).select_from(some.limit(EXACT_CHUNKS + 1).subquery())
    return (await tx.scalar(counted) or 0) > EXACT_CHUNKS


async def _exactly(
    tx: AsyncConnection,
    store: Store,
    query: Query,
    vector: Sequence[float],
    shard: int | None = None,
) -> tuple[Hit, ...]:
    asked = cast(literal(vector_text(vector), Text), Vector)
    distance = chunk_vectors.c.embedding.op("<=>", return_type=_FLOAT)(asked)
    statement = select(chunk_vectors.c.id, distance.label("distance")).where(within(store))
    if shard is not None:
        statement = statement.where(chunk_vectors.c.shard == shard)
    statement = statement.order_by("distance", chunk_vectors.c.id).limit(query.depth)
    return await _hits(tx, restricted(statement, query.restriction))


async def _by_index(
    tx: AsyncConnection, store: Store, query: Query, vector: Sequence[float], how: IndexedAs
) -> tuple[Hit, ...]:
    await tx.execute(
        text(
            "select set_config('hnsw.ef_search', :ef, true),"
            " set_config('hnsw.iterative_scan', 'strict_order', true),"
            " set_config('hnsw.max_scan_tuples', :most, true),"
            # The walk ends by itself; a scan of all rows looks cheaper than it is.
            " set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true)"
        ),
        {"ef": str(min(MAX_EF_SEARCH, max(EF_SEARCH, 2 * query.depth))), "most": str(MAX_SCANNED)},
    )
    # The very expression of the index.
    sized = Sized(how.type)
    asked = cast(literal(vector_text(vector), Text), sized)
    distance = cast(chunk_vectors.c.embedding, sized).op("<=>", return_type=_FLOAT)(asked)
    statement = (
        select(chunk_vectors.c.id, distance.label("distance"))
        .where(
            chunk_vectors.c.shard == store.shard,
            chunk_vectors.c.store == store.id,
            chunk_vectors.c.tenant == store.tenant,
        )
        .order_by(distance)
        .limit(query.depth)
    )
    found = await _hits(tx, restricted(statement, query.restriction))
    await tx.execute(
        text(
            "select set_config('enable_seqscan', 'on', true), set_config('enable_sort', 'on', true)"
        )
    )
    return found


async def _hits(tx: AsyncConnection, statement: Select[*tuple[Any, ...]]) -> tuple[Hit, ...]:
    rows = (await tx.execute(statement)).all()
    # A vector of zeros has no direction: its distance is NaN.
    return tuple(Hit(row.id, 1 - row.distance) for row in rows if math.isfinite(row.distance))
