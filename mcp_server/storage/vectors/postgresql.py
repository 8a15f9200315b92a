"""Vectors in the control database with pgvector, in the same transaction as their rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import orjson
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Double,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    column,
    delete,
    false,
    func,
    literal,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import filters
from mcp_server.errors import InvalidInput
from mcp_server.storage.sql.schema import Vector, chunk_vectors, documents
from mcp_server.storage.vectors import Entry, Finish, Hit, Hits, Query, Restriction, Store
from mcp_server.storage.vectors.lexemes import lexeme_of, quoted, tsvector
from mcp_server.storage.vectors.ranking import K1, B, idf

T = TypeVar("T")

# The most that pgvector's type `vector` holds.
MAX_DIMENSIONS = 16_000
INSERT_BATCH = 100
MAX_QUERY_TERMS = 256
# Chunks whose BM25 score is computed, about 10 microseconds each. The rarest terms choose them.
CANDIDATES = 2000
_FLOAT: Double[float] = Double()

_INSERT = text(
    """
    insert into chunk_vectors (id, store, document, tenant, tokens, length, embedding) values
    (:id, :store, :document, :tenant, cast(cast(:tokens as text) as tsvector), :length,
     cast(cast(:embedding as text) as vector))
    """
)
# A generic plan would parse the query's vector again for each row: after five searches on one
# connection a scan of 20,000 took 1.3 s instead of 30 ms. Compiling takes longer than these queries.
_PLANNING = text(
    "select set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)
_SIZES = text(
    "select count(*), coalesce(avg(length), 0) from chunk_vectors"
    " where store = :store and tenant = :tenant"
)
_FREQUENCIES = text(
    """
    select term, (select count(*) from chunk_vectors
                  where store = :store and tenant = :tenant and tokens @@ query)
    from unnest(cast(:terms as text[]), cast(cast(:queries as text[]) as tsquery[]))
         as asked (term, query)
    """
)


@asynccontextmanager
async def open_engine(url: str | None, control: AsyncEngine) -> AsyncGenerator[PostgresVectors]:
    """Yield the engine; `url` plays no part, since the vectors live in the control database."""
    del url
    yield PostgresVectors(control)


@dataclass(frozen=True, slots=True)
class _Term:
    lexeme: str
    frequency: int
    weight: float


class PostgresVectors:
    """Exact cosine over a store's vectors; BM25 over tokens from a GIN index."""

    def __init__(self, control: AsyncEngine) -> None:
        # One snapshot for both rankings and their rows: a document replaced in between is seen
        # either as it was or as it is.
        self._snapshots = control.execution_options(isolation_level="REPEATABLE READ")

    async def prepare(
        self, store: Store, document: str, metadata: Mapping[str, Any], entries: Sequence[Entry]
    ) -> None:
        del store, document, metadata  # rows of the same transaction
        for entry in entries:
            if len(entry.vector) > MAX_DIMENSIONS:
                raise InvalidInput(
                    f"the embedding model gives {len(entry.vector)} dimensions, more than the "
                    f"{MAX_DIMENSIONS} that PostgreSQL holds; choose another model"
                )

    async def publish(
        self,
        tx: AsyncConnection,
        store: Store,
        document: str,
        metadata: Mapping[str, Any],
        entries: Sequence[Entry],
    ) -> None:
        del metadata  # filters read it from the document's row
        at = {"store": store.id, "tenant": store.tenant, "document": document}
        # In batches, because writing thousands of vectors as text would block the event loop.
        for first in range(0, len(entries), INSERT_BATCH):
            batch = entries[first : first + INSERT_BATCH]
            await tx.execute(_INSERT, [at | _row(store, entry) for entry in batch])

    async def retract(self, tx: AsyncConnection, store: Store, documents: Sequence[str]) -> None:
        gone = chunk_vectors.c.document == func.any(
            bindparam("gone", list(documents), type_=ARRAY(Text))
        )
        await tx.execute(delete(chunk_vectors).where(_within(store), gone))

    async def search(self, store: Store, query: Query, finish: Finish[T]) -> T:
        async with self._snapshots.connect() as tx:
            await tx.execute(_PLANNING)
            hits = Hits()
            if query.tokens:
                hits = await _matching(tx, store, query, query.tokens)
            if query.vector is not None:
                hits = replace(hits, dense=await _nearest(tx, store, query, query.vector))
            return await finish(tx, hits)


def _row(store: Store, entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "tokens": tsvector([lexeme_of(store, token) for token in entry.tokens]),
        "length": len(entry.tokens),
        "embedding": _vector(entry.vector),
    }


def _vector(values: Sequence[float]) -> str:
    return orjson.dumps(list(values)).decode()


def _within(store: Store) -> ColumnElement[bool]:
    return and_(chunk_vectors.c.store == store.id, chunk_vectors.c.tenant == store.tenant)


def _restricted(
    query: Select[*tuple[Any, ...]], restriction: Restriction
) -> Select[*tuple[Any, ...]]:
    if restriction.prefixes is not None:
        prefixes = restriction.prefixes
        document = chunk_vectors.c.document
        query = query.where(or_(false(), *(func.starts_with(document, item) for item in prefixes)))
    if restriction.filter is not None:
        query = query.join(
            documents,
            and_(
                documents.c.store == chunk_vectors.c.store,
                documents.c.document == chunk_vectors.c.document,
            ),
        ).where(filters.compile(restriction.filter, lambda key: documents.c.metadata[key]))
    return query


async def _nearest(
    tx: AsyncConnection, store: Store, query: Query, vector: Sequence[float]
) -> tuple[Hit, ...]:
    asked = cast(literal(_vector(vector), Text), Vector)
    distance = chunk_vectors.c.embedding.op("<=>", return_type=_FLOAT)(asked)
    statement = (
        select(chunk_vectors.c.id, distance.label("distance"))
        .where(_within(store))
        .order_by("distance", chunk_vectors.c.id)
        .limit(query.depth)
    )
    rows = (await tx.execute(_restricted(statement, query.restriction))).all()
    # A vector of zeros has no direction: its distance is NaN.
    return tuple(Hit(row[0], 1 - row[1]) for row in rows if math.isfinite(row[1]))


async def _matching(tx: AsyncConnection, store: Store, query: Query, tokens: Sequence[str]) -> Hits:
    asked, average = await _terms(tx, store, tokens)
    weight = sum(term.weight for term in asked)
    terms = [term for term in asked if term.frequency]
    if not terms:
        return Hits(weight=weight)
    # Common terms tell little and match much: they only choose if the rare ones find too few.
    rare = _rarest(terms)
    hits = await _score(tx, store, query, terms, average, rare)
    if len(hits) < query.depth and len(rare) < len(terms):
        more = await _score(tx, store, query, terms, average, terms)
        both = {hit.id: hit for hit in (*hits, *more)}.values()
        hits = sorted(both, key=lambda hit: (-hit.score, hit.id))[: query.depth]
    return Hits(text=tuple(hits), weight=weight)


async def _terms(
    tx: AsyncConnection, store: Store, tokens: Sequence[str]
) -> tuple[list[_Term], float]:
    """Return the query's terms, rarest first, and the average length of the store's chunks."""
    counts = Counter(lexeme_of(store, token) for token in tokens)
    lexemes = list(counts)[:MAX_QUERY_TERMS]
    at = {"store": store.id, "tenant": store.tenant}
    chunks, average = (await tx.execute(_SIZES, at)).one()
    queries = [quoted(lexeme) for lexeme in lexemes]
    rows = await tx.execute(_FREQUENCIES, at | {"terms": lexemes, "queries": queries})
    terms = [
        _Term(term, frequency, counts[term] * idf(chunks, frequency)) for term, frequency in rows
    ]
    return sorted(terms, key=lambda term: (term.frequency, term.lexeme)), float(average)


def _rarest(terms: Sequence[_Term]) -> list[_Term]:
    chosen: list[_Term] = []
    total = 0
    for term in terms:
        total += term.frequency
        if chosen and total > CANDIDATES:
            break
        chosen.append(term)
    return chosen


async def _score(
    tx: AsyncConnection,
    store: Store,
    query: Query,
    terms: Sequence[_Term],
    average: float,
    choosing: Sequence[_Term],
) -> list[Hit]:
    """Return the best chunks by BM25 among those that hold a choosing term."""
    chosen = _candidates(store, query, choosing).cte("chosen")
    lexemes = bindparam("lexemes", [term.lexeme for term in terms], type_=ARRAY(Text))
    weights = bindparam("weights", [term.weight for term in terms], type_=ARRAY(Double))
    # Only the query's lexemes are unpacked: a chunk holds a hundred others.
    marked = func.setweight(chosen.c.tokens, text("'A'"), lexemes, type_=TSVECTOR)
    found = (
        func.unnest(func.ts_filter(marked, text("'{a}'")))
        .table_valued(column("lexeme", Text), column("positions", ARRAY(Text)), "weights")
        .lateral("found")
    )
    asked = (
        func.unnest(lexemes, weights)
        .table_valued(column("term", Text), column("weight", Double))
        .render_derived("asked")
    )
    times = func.cardinality(found.c.positions)
    length = 1 - B + B * chosen.c.length / average
    score = func.sum(asked.c.weight * times * (K1 + 1) / (times + K1 * length)).label("score")
    statement = (
        select(chosen.c.id, score)
        .select_from(chosen)
        .join(found, text("true"))
        .join(asked, asked.c.term == found.c.lexeme)
        .group_by(chosen.c.id)
        .order_by(score.desc(), chosen.c.id)
        .limit(query.depth)
    )
    return [Hit(row[0], float(row[1])) for row in await tx.execute(statement)]


def _candidates(store: Store, query: Query, choosing: Sequence[_Term]) -> Select[*tuple[Any, ...]]:
    """Return the query for chunks that hold a choosing term; if they are too many, for the fullest."""
    wanted = " | ".join(quoted(term.lexeme) for term in choosing)
    tsquery = text("cast(cast(:wanted as text) as tsquery)").bindparams(wanted=wanted)
    tokens = chunk_vectors.c.tokens
    found = select(chunk_vectors.c.id, chunk_vectors.c.length, tokens).where(
        _within(store), tokens.op("@@")(tsquery)
    )
    if sum(term.frequency for term in choosing) > CANDIDATES:
        found = found.order_by(func.ts_rank(tokens, tsquery).desc(), chunk_vectors.c.id)
    return _restricted(found, query.restriction).limit(CANDIDATES)
