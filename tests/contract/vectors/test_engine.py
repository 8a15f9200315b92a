"""What every vector engine must do, whatever holds the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import filters
from mcp_server.auth.principal import Principal
from mcp_server.errors import ConfigurationError, InvalidInput
from mcp_server.services.vectors import rows, stores
from mcp_server.services.vectors.content import Document, pieces
from mcp_server.storage.vectors import (
    Batch,
    Entry,
    Hit,
    Hits,
    Query,
    Restriction,
    Store,
    VectorEngine,
    open_vectors,
    words,
)
from mcp_server.storage.vectors.ranking import fuse, idf
from tests.contract.vectors.hashed_words import HashedWords


class RolledBack(Exception):
    """Ends a transaction without its changes."""


async def make_store(
    control: AsyncEngine, engine: VectorEngine, principal: Principal, name: str
) -> Store:
    async with control.begin() as tx:
        return await stores.make_store(tx, principal.tenant, name, "hashed-words", 64, engine.name)


async def put(
    control: AsyncEngine,
    engine: VectorEngine,
    store: Store,
    document: str,
    text: str,
    metadata: dict[str, Any] | None = None,
    *,
    fail: bool = False,
) -> int:
    new = Document(document, text, metadata or {}, pieces(text))
    [vector] = await HashedWords().embed([text])
    async with control.begin() as tx:
        [key] = await rows.chunk_ids(tx, 1)
    batch = Batch(store, document, new.metadata, [Entry(key, new.pieces[0].tokens, vector)])
    await engine.prepare(batch)
    async with control.begin() as tx:
        _, before = await rows.make_document(tx, store, new)
        if before:
            await rows.replace_document(tx, store, new)
        await engine.retract(tx, store, [document])
        await rows.put_chunks(tx, store, new, [key])
        await engine.publish(tx, batch)
        if fail:
            raise RolledBack
    return key


async def seen(
    engine: VectorEngine, store: Store, text: str, restriction: Restriction | None = None
) -> Hits:
    """Search both ways and keep the hits that have a row, as every caller must."""

    async def finish(tx: AsyncConnection, hits: Hits) -> Hits:
        ids = [hit.id for hit in (*hits.dense, *hits.text)]
        known = await rows.hydrate(tx, store, ids)
        return Hits(
            tuple(hit for hit in hits.dense if hit.id in known),
            tuple(hit for hit in hits.text if hit.id in known),
            hits.weight,
        )

    [vector] = await HashedWords().embed([text])
    query = Query(50, vector, text.split(), restriction or Restriction())
    return await engine.search(store, query, finish)


def ids(hits: Sequence[Any]) -> list[int]:
    return [hit.id for hit in hits]


async def test_what_is_published_is_found_by_vector_and_by_words(
    control: AsyncEngine, engine: VectorEngine, principal: Principal
) -> None:
    store = await make_store(control, engine, principal, "s")
    near = await put(control, engine, store, "near", "alpha beta")
    far = await put(control, engine, store, "far", "gamma delta")
    hits = await seen(engine, store, "alpha beta")
    assert ids(hits.dense) == [near, far]
    assert ids(hits.text) == [near]
    assert hits.dense[0].score == pytest.approx(1, abs=1e-5)
    assert hits.text[0].score == pytest.approx(2 * idf(2, 1), rel=1e-6)


async def test_the_weight_of_a_query_counts_the_words_that_nobody_has(
    control: AsyncEngine, engine: VectorEngine, principal: Principal
) -> None:
    store = await make_store(control, engine, principal, "s")
    await put(control, engine, store, "d", "alpha beta")
    hits = await seen(engine, store, "alpha unheard alpha")
    assert hits.weight == pytest.approx(2 * idf(1, 1) + idf(1, 0), rel=1e-6)


async def test_a_transaction_that_rolls_back_shows_and_hides_nothing(
    control: AsyncEngine, engine: VectorEngine, principal: Principal
) -> None:
    store = await make_store(control, engine, principal, "s")
    kept = await put(control, engine, store, "d", "alpha")
    with pytest.raises(RolledBack):
        await put(control, engine, store, "d", "beta", fail=True)
    with pytest.raises(RolledBack):
        await put(control, engine, store, "new", "beta", fail=True)
    hits = await seen(engine, store, "beta alpha")
    assert ids(hits.dense) == ids(hits.text) == [kept]


async def test_a_retracted_document_is_gone_and_its_neighbours_stay(
    control: AsyncEngine, engine: VectorEngine, principal: Principal
) -> None:
    store, other = [await make_store(control, engine, principal, name) for name in ("s", "other")]
    await put(control, engine, store, "d", "alpha")
    neighbour = await put(control, engine, store, "e", "alpha")
    twin = await put(control, engine, other, "d", "alpha")
    async with control.begin() as tx:
        await rows.lock_documents(tx, store, Restriction(), "d")
        await rows.delete_documents(tx, store, ["d"])
        await engine.retract(tx, store, ["d"])
    assert ids((await seen(engine, store, "alpha")).dense) == [neighbour]
    assert ids((await seen(engine, other, "alpha")).text) == [twin]


async def test_stores_and_tenants_never_see_each_other(
    control: AsyncEngine, engine: VectorEngine, principal: Principal, stranger: Principal
) -> None:
    mine = await make_store(control, engine, principal, "s")
    theirs = await make_store(control, engine, stranger, "s")
    own = await put(control, engine, mine, "d", "alpha")
    await put(control, engine, theirs, "d", "alpha")
    forged = Store(theirs.id, principal.tenant, "s", theirs.embedding_model, theirs.dimensions)

    async def as_they_come(tx: AsyncConnection, hits: Hits) -> Hits:
        return hits

    [vector] = await HashedWords().embed(["alpha"])
    hits = await engine.search(forged, Query(50, vector, ["alpha"]), as_they_come)
    assert hits.dense == hits.text == ()
    hits = await seen(engine, mine, "alpha")
    assert ids(hits.dense) == ids(hits.text) == [own]


async def test_restrictions_hold_for_both_rankings(
    control: AsyncEngine, engine: VectorEngine, principal: Principal
) -> None:
    store = await make_store(control, engine, principal, "s")
    keys = {
        name: await put(control, engine, store, name, "alpha", {"n": number})
        for number, name in enumerate(["a/1", "a/2", "b/1"])
    }
    odd = filters.parse({"type": "eq", "key": "n", "value": 1})
    for restriction, names in [
        (Restriction(filter=odd), ["a/2"]),
        (Restriction(prefixes=("a/",)), ["a/1", "a/2"]),
        (Restriction(prefixes=("b/", "a/2")), ["a/2", "b/1"]),
        (Restriction(filter=odd, prefixes=("b/",)), []),
        (Restriction(prefixes=()), []),
        (Restriction(prefixes=("",)), ["a/1", "a/2", "b/1"]),
    ]:
        hits = await seen(engine, store, "alpha", restriction)
        expected = sorted(keys[name] for name in names)
        assert sorted(ids(hits.dense)) == sorted(ids(hits.text)) == expected


async def test_vectors_that_are_too_long_are_refused_before_anything_is_written(
    engine: VectorEngine, principal: Principal, control: AsyncEngine
) -> None:
    store = await make_store(control, engine, principal, "s")
    with pytest.raises(InvalidInput, match="dimensions"):
        await engine.prepare(Batch(store, "d", {}, [Entry(1, [], [0.5] * 100_000)]))


async def test_a_term_in_most_chunks_still_finds_them_when_the_rare_ones_do_not_suffice(
    control: AsyncEngine,
    engine: VectorEngine,
    principal: Principal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(words, "CANDIDATES", 4)
    store = await make_store(control, engine, principal, "s")
    often = [await put(control, engine, store, f"d{n}", "common word") for n in range(8)]
    rare = await put(control, engine, store, "rare", "rare word")
    best, *rest = ids((await seen(engine, store, "rare common")).text)
    assert best == rare
    assert rest
    assert set(rest) <= set(often)


async def test_an_unknown_engine_is_refused_by_its_scheme(control: AsyncEngine) -> None:
    for url in ("mystery://host", "ranking.x://host"):
        with pytest.raises(ConfigurationError, match="ISTHMUS_VECTORS_URL: there is no vector"):
            async with open_vectors(url, control):
                pass


def test_fusion_adds_reciprocal_ranks() -> None:
    fused = fuse(Hits((Hit(1, 0.9), Hit(2, 0.8)), (Hit(2, 7.0), Hit(3, 5.0)), weight=8.0))
    assert ids(fused) == [2, 1, 3]
    assert fused[0].score == pytest.approx(1 / 61 + 1 / 62)


def test_a_passage_that_shares_only_common_words_has_no_say_in_the_fusion() -> None:
    fused = fuse(Hits((Hit(1, 0.9), Hit(2, 0.8)), (Hit(3, 1.0), Hit(2, 0.9)), weight=8.0))
    assert ids(fused) == [1, 2]
