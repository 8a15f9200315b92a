"""What the rows say about a search in Milvus: where to look, and which of what it found exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ARRAY, BigInteger, Text, bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.storage.sql.schema import chunk_vectors
from mcp_server.storage.vectors import Query, Store
from mcp_server.storage.vectors.lexemes import lexeme_of
from mcp_server.storage.vectors.milvus import fields
from mcp_server.storage.vectors.milvus.client import Found
from mcp_server.storage.vectors.words import located, rarest, restricted, terms_of, within

# Up to so many documents a filter is answered by naming them, which is exact and quick; milvus-lite
# evaluates labels row by row in Python (20 ms for 1,000 rows).
NAMED = 1000
# How many candidates a walk over the graph keeps when all entries may be seen. The fewer may be, the more
# it must keep, so that it comes by enough of them: with 200, 60 % of the ten best of 100 in 30,000 were
# found. `ADMITTED` of what it keeps may be seen, of what it looks at some times as many. More is dear: the
# time grows with the square. A server that scans such few entries exactly by itself loses nothing. Nothing
# is counted further than `COUNTED`: what is more gets a walk of `MOST_EF` at most.
EF, ADMITTED, MOST_EF, COUNTED = 200, 50, 4096, 20_000
_HELD = text(
    """
    select least(i.last_value, case when c.rows > 0 then 2 * c.rows + 50000 else i.last_value end)
    from chunk_ids i, (
        select sum(reltuples)::bigint as rows from pg_class
        where relkind = 'r' and relname ~ '^chunk_vectors_[0-9]+$') c
    """
)

PLANNING = text(
    "select set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)


@dataclass(frozen=True, slots=True)
class Width:
    """How many candidates a walk keeps; `admitted` entries may be seen, or more, of at most `held`."""

    ef: int = EF
    admitted: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How to search: `expression` admits all that may be seen, `width` says how wide the walk must be.

    `common`: the query's words are in too many chunks to rank them all. `within`: not all of the store
    may be seen.
    """

    expression: str
    common: bool
    width: Width
    within: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """Chunks that exist and may be seen; generations that took the place of what was found and is gone."""

    ids: set[int]
    replaced: list[int]


async def plan(tx: AsyncConnection, store: Store, query: Query) -> Plan:
    """Return how to search a store."""
    await tx.execute(PLANNING)
    store = await located(tx, store)
    expression = fields.restricted(store, query.restriction)
    restriction = query.restriction
    part = restriction.filter is not None or restriction.prefixes is not None
    if part:
        heads = select(chunk_vectors.c.id).where(
            within(store), chunk_vectors.c.id == chunk_vectors.c.generation
        )
        few = (await tx.scalars(restricted(heads, restriction).limit(NAMED + 1))).all()
        if len(few) <= NAMED:
            named = fields.in_generations(few or [-1])
            expression = f"{fields.within_store(store)} and {named}"
    common = False
    if query.tokens:
        terms = [term for term in (await terms_of(tx, store, query.tokens))[0] if term.frequency]
        common = len(rarest(terms)) < len(terms)
    width = Width() if query.vector is None else await _width(tx, store, query)
    return Plan(expression, common, width, part)


async def _width(tx: AsyncConnection, store: Store, query: Query) -> Width:
    held = int(await tx.scalar(_HELD) or 0)
    most = min(max(held // 2, 1), COUNTED)
    some = restricted(select(chunk_vectors.c.id).where(within(store)), query.restriction)
    counted = select(func.count()).select_from(some.limit(most).subquery())
    admitted = await tx.scalar(counted) or 0
    wide = ADMITTED * held // max(1, admitted)
    ef = max(EF, min(wide, MOST_EF if admitted == most else held))
    return Width(ef, admitted, held)


async def rarity(tx: AsyncConnection, store: Store, tokens: Sequence[str]) -> dict[str, float]:
    """Return the weight of each token that a chunk of the store holds."""
    await tx.execute(PLANNING)
    store = await located(tx, store)
    terms, _ = await terms_of(tx, store, tokens)
    weights = {term.lexeme: term.weight for term in terms if term.frequency}
    named = {lexeme_of(store, token): token for token in Counter(tokens)}
    return {named[lexeme]: weight for lexeme, weight in weights.items()}


async def settle(tx: AsyncConnection, store: Store, query: Query, found: Sequence[Found]) -> Seen:
    """Return which of the entries found exist, and what replaced the others after they were found."""
    store = await located(tx, store)
    listed = bindparam("listed", [each.id for each in found], type_=ARRAY(BigInteger))
    here = select(chunk_vectors.c.id, chunk_vectors.c.generation).where(
        within(store), chunk_vectors.c.id == func.any(listed)
    )
    exist = {row.id for row in await tx.execute(here)}
    allowed = exist
    if query.restriction.filter is not None or query.restriction.prefixes is not None:
        allowed = {row.id for row in await tx.execute(restricted(here, query.restriction))}
    gone = {each.document for each in found if each.id not in exist}
    if not gone:
        return Seen(allowed, [])
    names = bindparam("names", list(gone), type_=ARRAY(Text))
    now = (
        select(chunk_vectors.c.generation)
        .where(within(store), chunk_vectors.c.document == func.any(names))
        .distinct()
    )
    known = {each.generation for each in found}
    newer = [each for each in await tx.scalars(now) if each is not None and each not in known]
    return Seen(allowed, newer[: fields.MAX_LISTED])
