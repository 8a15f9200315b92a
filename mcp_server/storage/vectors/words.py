"""Ranking by words: BM25 over the tokens that the rows hold, the same whatever engine holds the vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Double,
    Select,
    Text,
    and_,
    bindparam,
    column,
    false,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server import filters
from mcp_server.storage.sql.schema import chunk_vectors, documents, vector_stores
from mcp_server.storage.vectors import Hit, Hits, Query, Restriction, Store
from mcp_server.storage.vectors.lexemes import lexeme_of, quoted
from mcp_server.storage.vectors.ranking import K1, B, idf

MAX_QUERY_TERMS = 256
# Chunks whose BM25 score is computed, about 10 microseconds each. The rarest terms choose them.
CANDIDATES = 2000
_SIZES = text(
    "select count(*), coalesce(avg(length), 0) from chunk_vectors"
    " where shard in (0, :shard) and store = :store and tenant = :tenant"
)
_FREQUENCIES = text(
    """
    select term, (select count(*) from chunk_vectors
                  where shard in (0, :shard) and store = :store and tenant = :tenant
                      and tokens @@ query)
    from unnest(cast(:terms as text[]), cast(cast(:queries as text[]) as tsquery[]))
         as asked (term, query)
    """
)


@dataclass(frozen=True, slots=True)
class Term:
    lexeme: str
    frequency: int
    weight: float


async def located(tx: AsyncConnection, store: Store) -> Store:
    """Return the store with the shard that it has now: it may have got one since it was looked up."""
    query = select(vector_stores.c.shard).where(vector_stores.c.id == store.id)
    return replace(store, shard=await tx.scalar(query) or 0)


def within(store: Store) -> ColumnElement[bool]:
    """Return the condition for a store's rows; its own shard may not hold all of them yet."""
    return and_(
        chunk_vectors.c.store == store.id,
        chunk_vectors.c.tenant == store.tenant,
        chunk_vectors.c.shard.in_({0, store.shard}),
    )


def restricted(
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
        held = filters.required(restriction.filter)
        if held:  # says nothing more, but an index finds it
            query = query.where(documents.c.metadata.contains(held))
    return query


async def matching(
    tx: AsyncConnection,
    store: Store,
    query: Query,
    tokens: Sequence[str],
    found: Sequence[int] | None = None,
) -> Hits:
    """Return the best chunks by BM25, and the query's weight.

    `found` are chunks that another index found to be the best; else the terms' own lists choose.
    """
    asked, average = await terms_of(tx, store, tokens)
    weight = sum(term.weight for term in asked)
    terms = [term for term in asked if term.frequency]
    if not terms:
        return Hits(weight=weight)
    if found is not None:
        chosen = _of_ids(store, query, found)
        return Hits(text=tuple(await _score(tx, query, terms, average, chosen)), weight=weight)
    # Common terms tell little and match much: they only choose if the rare ones find too few.
    rare = rarest(terms)
    hits = await _score(tx, query, terms, average, _candidates(store, query, rare))
    if len(hits) < query.depth and len(rare) < len(terms):
        more = await _score(tx, query, terms, average, _candidates(store, query, terms))
        both = {hit.id: hit for hit in (*hits, *more)}.values()
        hits = sorted(both, key=lambda hit: (-hit.score, hit.id))[: query.depth]
    return Hits(text=tuple(hits), weight=weight)


async def terms_of(
    tx: AsyncConnection, store: Store, tokens: Sequence[str]
) -> tuple[list[Term], float]:
    """Return the query's terms, rarest first, and the average length of the store's chunks."""
    counts = Counter(lexeme_of(store, token) for token in tokens)
    lexemes = list(counts)[:MAX_QUERY_TERMS]
    at = {"store": store.id, "tenant": store.tenant, "shard": store.shard}
    chunks, average = (await tx.execute(_SIZES, at)).one()
    queries = [quoted(lexeme) for lexeme in lexemes]
    rows = await tx.execute(_FREQUENCIES, at | {"terms": lexemes, "queries": queries})
    terms = [
        Term(term, frequency, counts[term] * idf(chunks, frequency)) for term, frequency in rows
    ]
    return sorted(terms, key=lambda term: (term.frequency, term.lexeme)), float(average)


def rarest(terms: Sequence[Term]) -> list[Term]:
    """Return the rarest terms that together do not choose more than `CANDIDATES` chunks, one at least."""
    chosen: list[Term] = []
    total = 0
    for term in terms:
        total += term.frequency
        if chosen and total > CANDIDATES:
            break
        chosen.append(term)
    return chosen


async def _score(
    tx: AsyncConnection,
    query: Query,
    terms: Sequence[Term],
    average: float,
    candidates: Select[*tuple[Any, ...]],
) -> list[Hit]:
    """Return the best chunks by BM25 among the candidates."""
    chosen = candidates.cte("chosen")
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


def _candidates(store: Store, query: Query, choosing: Sequence[Term]) -> Select[*tuple[Any, ...]]:
    """Return the query for chunks that hold a choosing term; if they are too many, for the fullest."""
    wanted = " | ".join(quoted(term.lexeme) for term in choosing)
    tsquery = text("cast(cast(:wanted as text) as tsquery)").bindparams(wanted=wanted)
    tokens = chunk_vectors.c.tokens
    found = select(chunk_vectors.c.id, chunk_vectors.c.length, tokens).where(
        within(store), tokens.op("@@")(tsquery)
    )
    if sum(term.frequency for term in choosing) > CANDIDATES:
        found = found.order_by(func.ts_rank(tokens, tsquery).desc(), chunk_vectors.c.id)
    return restricted(found, query.restriction).limit(CANDIDATES)


def _of_ids(store: Store, query: Query, found: Sequence[int]) -> Select[*tuple[Any, ...]]:
    listed = bindparam("found", list(found), type_=ARRAY(BigInteger))
    chosen = select(chunk_vectors.c.id, chunk_vectors.c.length, chunk_vectors.c.tokens)
    return restricted(
        chosen.where(within(store), chunk_vectors.c.id == func.any(listed)), query.restriction
    )
