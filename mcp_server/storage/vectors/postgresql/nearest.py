"""The vectors nearest to a query's: by an exact scan of the store's rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy import Double, Text, cast, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.storage.sql.schema import Vector, chunk_vectors
from mcp_server.storage.vectors import Hit, Query, Store
from mcp_server.storage.vectors.entries import vector_text
from mcp_server.storage.vectors.words import restricted, within

_FLOAT: Double[float] = Double()


async def nearest(
    tx: AsyncConnection, store: Store, query: Query, vector: Sequence[float]
) -> tuple[Hit, ...]:
    """Return the best hits of a query by cosine similarity, ties by id."""
    asked = cast(literal(vector_text(vector), Text), Vector)
    distance = chunk_vectors.c.embedding.op("<=>", return_type=_FLOAT)(asked)
    statement = (
        select(chunk_vectors.c.id, distance.label("distance"))
        .where(within(store))
        .order_by("distance", chunk_vectors.c.id)
        .limit(query.depth)
    )
    rows = (await tx.execute(restricted(statement, query.restriction))).all()
    # A vector of zeros has no direction: its distance is NaN.
    return tuple(Hit(row[0], 1 - row[1]) for row in rows if math.isfinite(row[1]))
