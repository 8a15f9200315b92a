"""Documents of a vector store on the real database: added, replaced, listed, read, deleted, journalled."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.ingest.tokenise import tokenise
from mcp_server.services.vectors import VectorService
from mcp_server.storage.sql.schema import chunk_vectors, chunks, documents
from tests.contract.vectors.hashed_words import HashedWords
from tests.contract.vectors.reading import LONG, changes, count, found


async def test_a_long_document_is_searched_by_chunk_and_read_whole(
    vectors: VectorService, principal: Principal
) -> None:
    added = await vectors.add(principal, "s", LONG, document="long")
    assert added["chunks"] >= 6
    for topic in ("topic0", "topic7", "topic11"):
        best = (await vectors.search(principal, "s", topic, k=1, mode="text"))["results"][0]
        assert topic in best["text"]
        assert LONG[best["start"] : best["end"]] == best["text"]
    whole = await vectors.get(principal, "s", "long")
    assert whole["text"] == LONG
    assert whole["chunks"] == added["chunks"]


async def test_a_document_is_replaced_whole(
    vectors: VectorService, principal: Principal, control: AsyncEngine
) -> None:
    await vectors.add(principal, "s", LONG, document="d", metadata={"v": 1})
    await vectors.add(principal, "s", "short and new", document="d", metadata={"v": 2})
    answer = await vectors.search(principal, "s", "topic3 new")
    assert [(item["text"], item["metadata"]) for item in answer["results"]] == [
        ("short and new", {"v": 2})
    ]
    assert await count(control, chunks, principal) == 1
    assert await count(control, chunk_vectors, principal) == 1
    await vectors.add(principal, "s", "short and new", document="d")
    assert (await vectors.get(principal, "s", "d"))["metadata"] == {}


async def test_the_same_document_again_is_no_work(
    vectors: VectorService, principal: Principal, control: AsyncEngine, embedder: HashedWords
) -> None:
    await vectors.add(principal, "s", "some text", document="d", metadata={"a": 1, "b": [2]})
    calls, before = len(embedder.calls), await changes(control, principal)
    again = await vectors.add(
        principal, "s", "some text", document="d", metadata={"b": [2], "a": 1}
    )
    assert again["chunks"] == 1
    assert len(embedder.calls) == calls
    assert await changes(control, principal) == before
    await vectors.add(principal, "s", "some text", document="d", metadata={"a": True, "b": [2]})
    assert (await vectors.get(principal, "s", "d"))["metadata"]["a"] is True


async def test_a_document_without_an_id_gets_one_and_a_repeated_step_the_same(
    vectors: VectorService, principal: Principal
) -> None:
    one = await vectors.add(principal, "s", "first")
    two = await vectors.add(principal, "s", "second", idempotency_key="run-1/step-1")
    again = await vectors.add(principal, "s", "second", idempotency_key="run-1/step-1")
    assert one["document"].startswith("doc_")
    assert two["document"] == again["document"] != one["document"]
    assert len((await vectors.list(principal, "s"))["items"]) == 2


async def test_a_store_answers_to_its_name_and_its_id(
    vectors: VectorService, principal: Principal, control: AsyncEngine
) -> None:
    await vectors.add(principal, "handbook", "page one", document="1")
    async with control.connect() as connection:
        query = select(documents.c.store).where(documents.c.tenant == principal.tenant)
        store_id = await connection.scalar(query)
    assert store_id is not None
    assert store_id.startswith("vs_")
    assert found(await vectors.search(principal, store_id, "page")) == ["1"]
    await vectors.add(principal, store_id, "page two", document="2")
    assert len((await vectors.list(principal, "handbook"))["items"]) == 2
    assert ("write", "vector://handbook/2") in await changes(control, principal)


async def test_what_is_not_there_is_not_found(vectors: VectorService, principal: Principal) -> None:
    for store in ("nothing", "vs_000000000000000000000000"):
        with pytest.raises(NotFound, match=f"vector store '{store}' does not exist"):
            await vectors.search(principal, store, "x")
        with pytest.raises(NotFound):
            await vectors.list(principal, store)
        with pytest.raises(NotFound):
            await vectors.delete(principal, store, document="x")
        with pytest.raises(NotFound):
            await vectors.get(principal, store, "x")
    with pytest.raises(NotFound):  # an id is given out, never chosen
        await vectors.add(principal, "vs_000000000000000000000000", "text")
    await vectors.add(principal, "there", "text", document="d")
    with pytest.raises(NotFound, match="document 'x' does not exist in vector store 'there'"):
        await vectors.get(principal, "there", "x")
    assert await vectors.delete(principal, "there", document="x") == {"deleted": 0}


async def test_pages_go_through_all_documents_once(
    vectors: VectorService, principal: Principal
) -> None:
    names = ["b", "a", "Z", "é", "中", "a/b", "a b"]
    for number, name in enumerate(names):
        await vectors.add(principal, "s", "text", document=name, metadata={"n": number})
    seen: list[str] = []
    cursor = None
    while True:
        page = await vectors.list(principal, "s", limit=3, cursor=cursor)
        seen += [item["document"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(names, key=str.encode)
    few = {"type": "lt", "key": "n", "value": 2}
    [first, second] = (await vectors.list(principal, "s", filter=few))["items"]
    assert (first["document"], second["document"]) == ("a", "b")
    assert first["metadata"] == {"n": 1}
    assert first["chunks"] == 1
    assert first["created_at"].endswith("Z")


async def test_documents_are_deleted_by_id_or_filter_with_all_they_had(
    vectors: VectorService, principal: Principal, control: AsyncEngine
) -> None:
    for number in range(6):
        await vectors.add(principal, "s", LONG, document=f"d{number}", metadata={"n": number})
    assert await vectors.delete(principal, "s", document="d0") == {"deleted": 1}
    assert await vectors.delete(principal, "s", document="d0") == {"deleted": 0}
    big = {"type": "gte", "key": "n", "value": 3}
    assert await vectors.delete(principal, "s", filter=big) == {"deleted": 3}
    assert {item["document"] for item in (await vectors.list(principal, "s"))["items"]} == {
        "d1",
        "d2",
    }
    assert set(found(await vectors.search(principal, "s", "topic3", k=100))) == {"d1", "d2"}
    left = await count(control, chunks, principal)
    assert left == await count(control, chunk_vectors, principal) > 2
    gone = [uri for verb, uri in await changes(control, principal) if verb == "delete"]
    assert sorted(gone) == [f"vector://s/d{number}" for number in (0, 3, 4, 5)]


async def test_progress_is_told_for_a_long_document(
    vectors: VectorService, principal: Principal
) -> None:
    heard: list[tuple[float, float | None]] = []

    async def hear(done: float, total: float | None, message: str | None) -> None:
        heard.append((done, total))

    added = await vectors.add(principal, "s", LONG * 12, document="d", progress=hear)
    assert [done for done, _ in heard] == list(range(32, added["chunks"], 32))
    assert {total for _, total in heard} == {added["chunks"]}


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    text=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60
    ).filter(lambda text: not text.isspace())
)
async def test_any_text_is_stored_as_it_is_and_found_by_its_words(
    vectors: VectorService, principal: Principal, text: str
) -> None:
    await vectors.add(principal, "any", text, document="d")
    assert (await vectors.get(principal, "any", "d"))["text"] == text
    answer = await vectors.search(principal, "any", text, mode="text")
    assert found(answer) == (["d"] if tokenise(text) else [])
