"""Vector stores as OpenAI's own client uses them, and as the same stores on every other face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import VectorStore
from sqlalchemy import func, text, update

from mcp_server.auth.principal import OWNER, Principal
from mcp_server.errors import Unavailable
from mcp_server.services.ingest import Origin, Read
from mcp_server.services.objects.addresses import Address
from mcp_server.services.objects.expiry import purge_expired
from mcp_server.services.vector_stores.keeping import delete_expired, forget_batches
from mcp_server.storage.sql.schema import objects
from tests.doors.live import Live, open_live

LAND = "An isthmus is a narrow strip of land that joins two larger lands and parts two seas."
CANAL = "The Panama canal was dug through an isthmus, with locks that lift ships over the hills."
BREAD = "Rye bread needs sourdough, warm water, patience and a hot oven with a little steam."


@pytest.fixture(scope="module")
async def live(scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "vector-stores") as live:
        yield live


def client_of(live: Live, key: str | None = None) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key or live.key, max_retries=0)


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(live) as client:
        yield client


@pytest.fixture(scope="module")
async def stranger(live: Live) -> AsyncIterator[AsyncOpenAI]:
    made = await live.runtime.services.keys.create("other", tenant="stranger")
    async with client_of(live, made["key"]) as client:
        yield client


async def upload(client: AsyncOpenAI, body: str | bytes, name: str = "notes.txt") -> str:
    data = body.encode() if isinstance(body, str) else body
    return (await client.files.create(file=(name, data), purpose="assistants")).id


def hold_reading(
    live: Live, monkeypatch: pytest.MonkeyPatch, nth: int
) -> tuple[asyncio.Event, asyncio.Event]:
    """Let the nth file from now on wait until the second event is set; the first tells that it does."""
    ingest, begun, go_on = live.runtime.services.ingest, asyncio.Event(), asyncio.Event()
    read, count = ingest.read, 0

    async def reading(principal: Principal, origin: Origin) -> Read:
        nonlocal count
        count += 1
        if count == nth:
            begun.set()
            await go_on.wait()
        return await read(principal, origin)

    monkeypatch.setattr(ingest, "read", reading)
    return begun, go_on


async def filled(client: AsyncOpenAI, **texts: str) -> tuple[VectorStore, dict[str, str]]:
    """Make a store and read texts into it, each as the file NAME.txt with the attribute name."""
    store = await client.vector_stores.create(name="seas")
    ids = {name: await upload(client, text, f"{name}.txt") for name, text in texts.items()}
    files: list[Any] = [{"file_id": ids[n], "attributes": {"name": n}} for n in ids]
    batch = await client.vector_stores.file_batches.create_and_poll(
        store.id, files=files, poll_interval_ms=20
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", len(ids))
    return store, ids


async def test_a_store_is_made_shown_changed_and_deleted(client: AsyncOpenAI) -> None:
    made = await client.vector_stores.create(
        name="Support FAQ",
        description="What people ask",
        metadata={"team": "a"},
        expires_after={"anchor": "last_active_at", "days": 7},
    )
    assert made.id.startswith("vs_")
    assert (made.name, made.status, made.metadata) == ("Support FAQ", "completed", {"team": "a"})
    assert made.expires_at is not None
    assert made.last_active_at is not None
    assert made.expires_at - made.last_active_at == 7 * 86_400
    assert (made.file_counts.total, made.usage_bytes) == (0, 0)
    assert await client.vector_stores.retrieve(made.id) == made
    changed = await client.vector_stores.update(made.id, name="FAQ", expires_after=None)
    assert (changed.name, changed.expires_at, changed.metadata) == ("FAQ", None, {"team": "a"})
    gone = await client.vector_stores.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "vector_store.deleted", True)
    with pytest.raises(openai.NotFoundError, match=made.id):
        await client.vector_stores.retrieve(made.id)


async def test_a_file_is_read_in_the_background_found_shown_and_taken_out(
    client: AsyncOpenAI,
) -> None:
    store = await client.vector_stores.create()
    file = await upload(client, LAND, "land.md")
    added = await client.vector_stores.files.create_and_poll(
        file, vector_store_id=store.id, attributes={"kind": "land", "year": 1914.5, "old": True},
        poll_interval_ms=20,
    )  # fmt: skip
    assert (added.id, added.status, added.last_error) == (file, "completed", None)
    assert added.attributes == {"kind": "land", "year": 1914.5, "old": True}
    assert added.usage_bytes == len(LAND) + 4 * 512
    content = await client.vector_stores.files.content(file, vector_store_id=store.id)
    assert [part.text for part in content.data] == [LAND]
    [hit] = (await client.vector_stores.search(store.id, query="strip of land")).data
    assert (hit.file_id, hit.filename, hit.attributes) == (file, "land.md", added.attributes)
    assert hit.content[0].text == LAND
    assert 0 < hit.score <= 1
    store = await client.vector_stores.retrieve(store.id)
    assert (store.file_counts.completed, store.usage_bytes) == (1, added.usage_bytes)

    await client.vector_stores.files.delete(file, vector_store_id=store.id)
    assert (await client.vector_stores.search(store.id, query="strip of land")).data == []
    with pytest.raises(openai.NotFoundError, match=file):
        await client.vector_stores.files.retrieve(file, vector_store_id=store.id)
    assert (await client.files.retrieve(file)).id == file


async def test_files_are_uploaded_and_read_together(client: AsyncOpenAI) -> None:
    store = await client.vector_stores.create(name="batch")
    streams = [BytesIO(text.encode()) for text in (LAND, CANAL, BREAD)]
    for number, stream in enumerate(streams):
        stream.name = f"{number}.txt"
    batch = await client.vector_stores.file_batches.upload_and_poll(
        store.id, files=streams, poll_interval_ms=20
    )
    assert (batch.status, batch.file_counts.completed, batch.file_counts.total) == (
        "completed", 3, 3,
    )  # fmt: skip
    listed = [
        file.id
        async for file in client.vector_stores.file_batches.list_files(
            batch.id, vector_store_id=store.id, limit=2
        )
    ]
    assert len(set(listed)) == 3
    same = [each.id async for each in client.vector_stores.files.list(store.id, filter="completed")]
    assert set(same) == set(listed)
    assert [each.id async for each in client.vector_stores.files.list(store.id, filter="failed")] == []  # fmt: skip


async def test_searches_take_filters_rankers_thresholds_and_several_queries(
    client: AsyncOpenAI,
) -> None:
    store, ids = await filled(client, land=LAND, canal=CANAL, bread=BREAD)

    async def found(query: str | list[str], **how: Any) -> list[str]:
        page = await client.vector_stores.search(store.id, query=query, **how)
        return [hit.file_id for hit in page.data]

    assert (await found("sourdough bread"))[0] == ids["bread"]
    assert (await found("ships and locks", max_num_results=1)) == [ids["canal"]]
    only_land = {"type": "eq", "key": "name", "value": "land"}
    assert await found("sourdough", filters=only_land) == [ids["land"]]
    either = {"type": "or", "filters": [only_land, only_land | {"value": "bread"}]}
    assert set(await found("ships", filters=either)) == {ids["land"], ids["bread"]}
    assert set(await found("x", filters=only_land | {"type": "ne"})) == {ids["canal"], ids["bread"]}
    assert await found("bread", ranking_options={"score_threshold": 1.0}) == [ids["bread"]]
    assert (await found("oven", ranking_options={"ranker": "none"}))[0] == ids["bread"]
    both = await client.vector_stores.search(store.id, query=["sourdough bread", "canal locks"])
    assert {hit.file_id for hit in both.data[:2]} == {ids["bread"], ids["canal"]}
    with pytest.raises(openai.BadRequestError) as refused:
        await found("x", filters={"type": "like", "key": "a", "value": "b"})
    assert refused.value.param == "filters"


async def test_what_cannot_be_read_fails_alone_and_says_why(client: AsyncOpenAI) -> None:
    store = await client.vector_stores.create()
    bad = {
        "unsupported_file": await upload(client, bytes(range(256)) * 8, "x.bin"),
        "invalid_file": await upload(client, b"%PDF-1.7 and nothing more", "x.pdf"),
    }
    good = await upload(client, LAND)
    batch = await client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=[good, *bad.values()], poll_interval_ms=20
    )
    assert (batch.status, batch.file_counts.failed, batch.file_counts.completed) == ("completed", 2, 1)  # fmt: skip
    for code, file in bad.items():
        failed = await client.vector_stores.files.retrieve(file, vector_store_id=store.id)
        assert failed.status == "failed"
        assert failed.last_error is not None
        assert failed.last_error.code == code, failed.last_error
        assert failed.last_error.message
    with pytest.raises(openai.NotFoundError, match="file-none"):
        await client.vector_stores.files.create(store.id, file_id="file-none")
    with pytest.raises(openai.NotFoundError, match="file-none"):
        await client.vector_stores.create(file_ids=["file-none"])
    with pytest.raises(openai.NotFoundError, match="file-none"):
        await client.vector_stores.file_batches.create(store.id, file_ids=[good, "file-none"])
    assert (await client.vector_stores.retrieve(store.id)).file_counts.total == 3


async def test_attributes_are_replaced_and_searched_at_once(client: AsyncOpenAI) -> None:
    store, ids = await filled(client, land=LAND)
    file = ids["land"]
    changed = await client.vector_stores.files.update(
        file, vector_store_id=store.id, attributes={"other": 1}
    )
    assert changed.attributes == {"other": 1}
    for attributes, found in (({"name": "land"}, 0), ({"other": 1}, 1)):
        [(key, value)] = attributes.items()
        where: Any = {"type": "eq", "key": key, "value": value}
        page = await client.vector_stores.search(store.id, query="land", filters=where)
        assert len(page.data) == found
    again = await client.vector_stores.files.create_and_poll(
        file, vector_store_id=store.id, poll_interval_ms=20,
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}},
    )  # fmt: skip
    assert (again.status, again.attributes) == ("completed", {})
    assert again.chunking_strategy is not None
    assert again.chunking_strategy.type == "static"
    assert again.chunking_strategy.static.max_chunk_size_tokens == 100
    assert (await client.vector_stores.retrieve(store.id)).file_counts.total == 1


async def test_a_deleted_file_leaves_every_store(client: AsyncOpenAI) -> None:
    store, ids = await filled(client, land=LAND, canal=CANAL)
    other = await client.vector_stores.create(file_ids=[ids["land"]])
    await client.files.delete(ids["land"])
    left = [each.id async for each in client.vector_stores.files.list(store.id)]
    assert left == [ids["canal"]]
    assert [each.id async for each in client.vector_stores.files.list(other.id)] == []
    assert (await client.vector_stores.retrieve(other.id)).file_counts.total == 0


async def test_lists_go_both_ways_from_any_item(client: AsyncOpenAI) -> None:
    stores = [(await client.vector_stores.create(name=str(n))).id for n in range(4)]
    newest = [store.id async for store in client.vector_stores.list(limit=3)]
    assert newest[:4] == stores[::-1]
    page = await client.vector_stores.list(limit=2, before=stores[0])
    assert [store.id for store in page.data] == [stores[2], stores[1]]
    assert page.has_more
    page = await client.vector_stores.list(limit=2, order="asc", after=stores[1])
    assert [store.id for store in page.data] == stores[2:]
    assert not page.has_more
    with pytest.raises(openai.BadRequestError) as refused:
        await client.vector_stores.list(after="vs_none")
    assert refused.value.param == "after"


async def test_a_store_of_one_face_is_the_same_store_on_the_others(
    live: Live, client: AsyncOpenAI
) -> None:
    store, ids = await filled(client, land=LAND)
    found = await live.runtime.bus.call(
        OWNER, "vector_search", {"store": store.id, "query": "strip of land"}
    )
    [passage] = found.structured["results"]  # type: ignore[index]
    assert (passage["document"], passage["metadata"]) == (ids["land"], {"name": "land"})
    listed = await live.runtime.bus.call(OWNER, "vector_list", {"store": store.id})
    assert [item["document"] for item in listed.structured["items"]] == [ids["land"]]  # type: ignore[index]

    given = {"store": "made-over-mcp", "document": "b.md", "text": BREAD, "metadata": {"x": [1]}}
    await live.runtime.bus.call(OWNER, "vector_add", given)
    [theirs] = [each async for each in client.vector_stores.list() if each.name == "made-over-mcp"]
    assert theirs.file_counts.completed == 1
    assert theirs.usage_bytes == len(BREAD) + 4 * 512
    [file] = [each async for each in client.vector_stores.files.list(theirs.id)]
    assert (file.id, file.status) == ("b.md", "completed")
    content = await client.vector_stores.files.content("b.md", vector_store_id=theirs.id)
    assert content.data[0].text == BREAD
    [hit] = (await client.vector_stores.search(theirs.id, query="bread")).data
    assert hit.file_id == "b.md"
    added = await client.vector_stores.files.create_and_poll(
        await upload(client, LAND), vector_store_id=theirs.id, poll_interval_ms=20
    )
    await live.runtime.bus.call(OWNER, "vector_delete", {"store": "made-over-mcp", "document": added.id})  # fmt: skip
    assert [each.id async for each in client.vector_stores.files.list(theirs.id)] == ["b.md"]


async def test_another_tenants_stores_files_and_batches_do_not_exist(
    client: AsyncOpenAI, stranger: AsyncOpenAI
) -> None:
    store, ids = await filled(client, land=LAND)
    own = await stranger.vector_stores.create(name="own")
    file, batch = ids["land"], "vsfb_" + 24 * "0"
    vectors = stranger.vector_stores
    for refused in (
        vectors.retrieve(store.id),
        vectors.update(store.id, name="x"),
        vectors.delete(store.id),
        vectors.search(store.id, query="land"),
        vectors.files.list(store.id),
        vectors.files.retrieve(file, vector_store_id=store.id),
        vectors.files.content(file, vector_store_id=store.id),
        vectors.files.update(file, vector_store_id=store.id, attributes={}),
        vectors.files.delete(file, vector_store_id=store.id),
        vectors.files.create(own.id, file_id=file),
        vectors.create(file_ids=[file]),
        vectors.file_batches.create(own.id, file_ids=[file]),
        vectors.file_batches.retrieve(batch, vector_store_id=own.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await refused
    assert [each.id async for each in vectors.list()] == [own.id]
    assert (await client.vector_stores.retrieve(store.id)).name == "seas"


async def test_a_file_that_expired_leaves_its_stores_as_one_that_is_deleted(
    live: Live, client: AsyncOpenAI
) -> None:
    engines, services = live.runtime.engines, live.runtime.services
    after: Any = {"anchor": "created_at", "seconds": 3600}
    file = await client.files.create(
        file=("a.txt", b"The canal was dug by hand."), purpose="assistants", expires_after=after
    )
    stores = [await client.vector_stores.create() for _ in range(2)]
    for store in stores:
        read = await client.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id)
        assert read.status == "completed"
    over = update(objects).where(objects.c.id == file.id)
    async with engines.control.begin() as tx:
        await tx.execute(over.values(expires_at=func.now() - text("interval '1 s'")))

    async def unwell(at: Address) -> None:
        raise Unavailable(f"the engine with {at.key} is away")

    assert await purge_expired(engines.control, unwell) == 0  # it is not forgotten
    assert await purge_expired(engines.control, services.vector_stores.leave_expired) == 1
    for store in stores:
        assert (await client.vector_stores.files.list(store.id)).data == []
        assert (await client.vector_stores.retrieve(store.id)).file_counts.total == 0
        assert (await client.vector_stores.search(store.id, query="canal")).data == []


async def test_a_store_that_nobody_used_expires_and_is_deleted_a_week_later(
    live: Live, client: AsyncOpenAI
) -> None:
    store, ids = await filled(client, land=LAND)
    await client.vector_stores.update(
        store.id, expires_after={"anchor": "last_active_at", "days": 1}
    )
    vectors, engines = client.vector_stores, live.runtime.engines

    async def unused_for(days: int) -> None:
        async with engines.control.begin() as tx:
            since = text(
                "update vector_stores set last_active_at = now() - make_interval(days => :days)"
                " where id = :id"
            )
            await tx.execute(since, {"days": days, "id": store.id})

    await unused_for(2)
    shown = await vectors.retrieve(store.id)
    assert (shown.status, shown.file_counts.completed) == ("expired", 1)
    for refused in (
        vectors.search(store.id, query="land"),
        vectors.files.list(store.id),
        vectors.files.create(store.id, file_id=ids["land"]),
    ):
        with pytest.raises(openai.NotFoundError, match="has expired"):
            await refused
    found = await live.runtime.bus.call(OWNER, "vector_list", {"store": store.id})
    assert found.is_error
    await delete_expired(engines.control, engines.vectors)
    revived = await vectors.update(store.id, expires_after={"anchor": "last_active_at", "days": 3})
    assert revived.status == "completed"
    await unused_for(2)
    assert len((await vectors.search(store.id, query="land")).data) == 1  # which is a use of it
    assert (await vectors.retrieve(store.id)).status == "completed"
    async with engines.control.connect() as tx:
        query = text(
            "select last_active_at > now() - interval '1 hour' from vector_stores where id = :id"
        )
        assert await tx.scalar(query, {"id": store.id})
    await unused_for(11)
    await delete_expired(engines.control, engines.vectors)
    with pytest.raises(openai.NotFoundError):
        await vectors.retrieve(store.id)


async def test_a_batch_is_cancelled_and_what_was_read_stays(
    live: Live, client: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await client.vector_stores.create()
    ids = sorted([await upload(client, each) for each in (LAND, CANAL, BREAD)])
    begun, go_on = hold_reading(live, monkeypatch, 2)
    batch = await client.vector_stores.file_batches.create(store.id, file_ids=ids)
    assert batch.status == "in_progress"
    async with asyncio.timeout(30):
        await begun.wait()
    ended = await client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    go_on.set()
    assert (ended.status, ended.file_counts.completed, ended.file_counts.cancelled) == ("cancelled", 1, 2)  # fmt: skip
    again = await client.vector_stores.files.create_and_poll(
        ids[2], vector_store_id=store.id, poll_interval_ms=20
    )
    assert again.status == "completed"
    found = await client.vector_stores.search(store.id, query="land canal bread")
    assert {hit.file_id for hit in found.data} == {ids[0], ids[2]}
    ended = await client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id)
    assert (ended.status, ended.file_counts.cancelled) == ("cancelled", 2)

    control = live.runtime.engines.control
    async with control.begin() as tx:
        old = text("update vector_file_batches set created_at = now() - interval '31 days'")
        await tx.execute(old)
    await forget_batches(control)
    with pytest.raises(openai.NotFoundError):
        await client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id)
    assert (await client.vector_stores.retrieve(store.id)).file_counts.completed == 2


async def test_files_whose_key_died_fail_and_say_so(
    live: Live, client: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await live.runtime.services.keys.create("short-lived")
    store = await client.vector_stores.create()
    ids = sorted([await upload(client, LAND), await upload(client, CANAL)])
    begun, go_on = hold_reading(live, monkeypatch, 1)
    async with client_of(live, made["key"]) as own:
        batch = await own.vector_stores.file_batches.create(store.id, file_ids=ids)
    async with asyncio.timeout(30):
        await begun.wait()
    await live.runtime.services.keys.revoke(made["id"])
    go_on.set()
    ended = await client.vector_stores.file_batches.poll(
        batch.id, vector_store_id=store.id, poll_interval_ms=20
    )
    # The first file was read before: it is kept, unless the sweep of dead keys came before its write.
    counts = ended.file_counts
    assert (ended.status, counts.completed, counts.failed) in {
        ("completed", 1, 1),
        ("failed", 0, 2),
    }
    failed = await client.vector_stores.files.retrieve(ids[1], vector_store_id=store.id)
    assert failed.last_error is not None
    assert failed.last_error.code == "server_error"
    assert "revoked" in failed.last_error.message


async def test_a_response_searches_the_store_and_names_its_file(client: AsyncOpenAI) -> None:
    store, ids = await filled(client, land=LAND)
    search: Any = {"type": "file_search", "vector_store_ids": [store.id]}
    answer = await client.responses.create(
        model="default",
        input='{"tool": "file_search", "arguments": {"query": "strip of land"}}',
        tools=[search],
        include=["file_search_call.results"],
    )
    [call] = [item for item in answer.output if item.type == "file_search_call"]
    [result] = call.results or []
    assert (result.file_id, result.filename) == (ids["land"], "land.txt")
    assert result.attributes == {"name": "land"}


async def test_chunks_of_a_size_share_what_overlaps(live: Live, client: AsyncOpenAI) -> None:
    tale = " ".join(f"Word number {n} of the long tale is word{n}x." for n in range(60))
    store, file = await client.vector_stores.create(), await upload(client, tale)
    added = await client.vector_stores.files.create_and_poll(
        file, vector_store_id=store.id, poll_interval_ms=20,
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 100}},
    )  # fmt: skip
    assert added.status == "completed", added.last_error
    page = await client.vector_stores.search(store.id, query="word20x", max_num_results=2)
    assert all("word20x" in hit.content[0].text for hit in page.data)
    assert len({hit.content[0].text for hit in page.data}) == 2
    content = await client.vector_stores.files.content(file, vector_store_id=store.id)
    assert content.data[0].text == tale
    passages = await live.runtime.services.vectors.search(OWNER, store.id, "word20x", k=2)
    for passage in passages["results"]:
        assert tale[passage["start"] : passage["end"]] == passage["text"]
    await live.runtime.services.vectors.update(OWNER, store.id, {"a": 1}, document=file)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.vector_stores.files.create(
            store.id, file_id=file,
            chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 101}},
        )  # fmt: skip
    assert refused.value.param == "chunking_strategy.static.chunk_overlap_tokens"
