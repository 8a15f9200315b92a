"""Ingestion as a run: from everywhere, each document on its own, once, and with the caller's rights."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from mcp_server.auth.principal import OWNER, Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from mcp_server.runtime import Runtime
from mcp_server.services.ingest import Origin
from tests.contract.fetch.site import once, says, serving
from tests.contract.ingest.papers import pdf, word

NOTES = "# Bridges\n\nA bridge carries a road.\n\n## Spans\n\n" + "The span is long. " * 60


@pytest.fixture
def store() -> str:
    return f"s{uuid.uuid4().hex[:10]}"


async def put(runtime: Runtime, key: str, body: bytes, content_type: str | None = None) -> str:
    encoded = base64.b64encode(body).decode()
    await runtime.services.objects.put(
        OWNER, "papers", key, base64=encoded, content_type=content_type
    )
    return f"papers/{key}"


async def ingest(
    runtime: Runtime, store: str, *sources: dict[str, Any], **more: Any
) -> dict[str, Any]:
    arguments = {"store": store, "sources": list(sources), **more}
    result = await runtime.bus.call(OWNER, "vector_ingest", arguments)
    assert not result.is_error, result.text
    assert result.structured is not None
    return result.structured


async def documents(runtime: Runtime, store: str) -> dict[str, Any]:
    listed = await runtime.services.vectors.list(OWNER, store)
    return {item["document"]: item for item in listed["items"]}


async def test_documents_come_from_texts_objects_folders_and_pages(
    runtime: Runtime, store: str
) -> None:
    folder = uuid.uuid4().hex[:8]
    paper = await put(
        runtime, f"{folder}/paper.pdf", pdf(["First page.", "Second page."], title="A paper")
    )
    await put(runtime, f"{folder}/in/a.md", NOTES.encode())
    await put(runtime, f"{folder}/in/b.docx", word())
    page = (
        b"<html><head><title>Sea</title></head><body><h1>Tides</h1><p>They rise.</p></body></html>"
    )
    async with serving(says(once(page, "Content-Type: text/html"))) as site:
        url = f"http://127.0.0.1:{site.port}/tides?token=secret#part"
        done = await ingest(
            runtime,
            store,
            {"text": "A plain text.", "document": "plain", "metadata": {"lang": "en"}},
            {"object": paper, "document": "paper"},
            {"object_prefix": f"papers/{folder}/in/", "metadata": {"kind": "note"}},
            {"url": url},
            {"text": "<p>marked <b>up</b></p>", "content_type": "text/html", "document": "marked"},
        )
    notes = [f"papers/{folder}/in/{name}" for name in ("a.md", "b.docx")]
    page_id = f"http://127.0.0.1:{site.port}/tides?token=secret"
    expected = ["plain", "paper", *notes, page_id, "marked"]
    assert [document["document"] for document in done["documents"]] == expected
    assert (done["added"], done["failed"], done["store"]) == (6, 0, store)
    there = await documents(runtime, store)
    assert set(there) == set(expected)
    assert there["paper"]["title"] == "A paper"
    assert there["paper"]["media_type"] == "application/pdf"
    assert there["paper"]["source"] == f"object://papers/{folder}/paper.pdf"
    assert there["plain"]["metadata"] == {"lang": "en"}
    assert there[notes[0]]["metadata"] == there[notes[1]]["metadata"] == {"kind": "note"}
    assert there[page_id]["title"] == "Sea"
    [found] = (await runtime.services.vectors.search(OWNER, store, "second", k=1, mode="text"))[
        "results"
    ]
    assert (found["document"], found.get("page"), found["text"]) == ("paper", 2, "Second page.")
    [found] = (await runtime.services.vectors.search(OWNER, store, "span", k=1, mode="text"))[
        "results"
    ]
    assert (found["document"], found.get("heading")) == (notes[0], "Bridges > Spans")
    whole = (await runtime.services.vectors.get(OWNER, store, notes[0]))["text"]
    assert whole == NOTES
    assert whole[found["start"] : found["end"]] == found["text"]
    assert (await runtime.services.vectors.get(OWNER, store, "marked"))["text"] == "marked up"


async def test_one_that_cannot_be_read_is_reported_and_fails_no_other(
    runtime: Runtime, store: str
) -> None:
    broken = await put(runtime, f"{store}.pdf", b"%PDF-1.4 and no more")
    nul = await put(runtime, f"{store}.txt", b"nul\0")
    async with serving(says(once(b"", status="500 Broken"))) as site:
        done = await ingest(
            runtime,
            store,
            {"text": "good", "document": "one"},
            {"object": broken},
            {"object": "papers/absent"},
            {"url": "http://169.254.169.254/latest/meta-data/"},
            {"url": f"http://127.0.0.1:{site.port}/"},
            {"text": " ", "document": "empty"},
            {"object": nul},
            {"text": "x", "document": "\u202eevil"},
            {"text": "x", "document": "meta", "metadata": {"a": "x" * 20_000}},
            {"text": "also good", "document": "two"},
        )
    assert (done["added"], done["failed"]) == (2, 8)
    errors = [document.get("error", "") for document in done["documents"]]
    for error, begins in zip(
        errors[1:9],
        [
            "invalid_input: object: it is no PDF",
            "not_found: ",
            "invalid_input: url: 169.254.169.254 is not on the public internet",
            f"unavailable: url: 127.0.0.1:{site.port} answers 500",
            "invalid_input: text: it is empty",
            "invalid_input: object: it is no text: it holds U+0000",
            "invalid_input: document: the character U+202E",
            "invalid_input: metadata: ",
        ],
        strict=True,
    ):
        assert error.startswith(begins)
    assert set(await documents(runtime, store)) == {"one", "two"}


async def test_the_same_document_again_is_no_work_and_another_text_replaces_it(
    runtime: Runtime, store: str
) -> None:
    sources = [{"text": NOTES, "content_type": "text/markdown"}, {"text": "b", "document": "b"}]
    await ingest(runtime, store, *sources)
    [name, _] = sorted(await documents(runtime, store), key=len, reverse=True)
    before = await documents(runtime, store)
    again = await ingest(runtime, store, *sources)
    assert again["added"] == 2
    assert await documents(runtime, store) == before
    await ingest(runtime, store, {"text": "new", "document": "b"})
    after = await documents(runtime, store)
    assert after[name] == before[name]
    assert after["b"]["updated_at"] > before["b"]["updated_at"]
    assert (await runtime.services.vectors.get(OWNER, store, "b"))["text"] == "new"


async def test_chunks_are_cut_by_tokens_if_asked(runtime: Runtime, store: str) -> None:
    few = await ingest(
        runtime, store, {"text": NOTES * 4, "document": "few"}, chunking={"max_tokens": 512}
    )
    many = await ingest(
        runtime, store, {"text": NOTES * 4, "document": "many"}, chunking={"max_tokens": 64}
    )
    assert many["documents"][0]["chunks"] > 5 * few["documents"][0]["chunks"]


async def test_progress_is_told_for_each_document(runtime: Runtime, store: str) -> None:
    sources = [{"text": NOTES * 20, "document": f"d{number}"} for number in range(3)]
    run = await runtime.services.runs.start_tool(
        OWNER, "vector_ingest", {"store": store, "sources": sources}
    )
    async with asyncio.timeout(60):
        events = [event async for event in runtime.services.runs.follow(OWNER, run["run"])]
    done = [(event["done"], event["total"]) for event in events if event["type"] == "progress"]
    assert {total for _, total in done} == {3}
    assert [whole for whole, _ in done] == sorted(whole for whole, _ in done)
    assert done[-1][0] == 3


async def endless(_: str) -> AsyncIterator[bytes]:
    yield once(b"", "Content-Length: 1000000", length=False)
    while True:
        yield b"x"
        await asyncio.sleep(0.05)


async def test_a_cancelled_run_keeps_what_was_done_and_reads_no_further(
    runtime: Runtime, store: str
) -> None:
    async with serving(endless) as site:
        sources = [
            {"text": "kept", "document": "a"},
            {"url": f"http://127.0.0.1:{site.port}/"},
            {"text": "c"},
        ]
        run = await runtime.services.runs.start_tool(
            OWNER, "vector_ingest", {"store": store, "sources": sources}
        )
        async with asyncio.timeout(30):
            while not site.asked:
                await asyncio.sleep(0.05)
        await runtime.services.runs.cancel(OWNER, run["run"])
        async with asyncio.timeout(30):
            while (await runtime.services.runs.get(OWNER, run["run"]))["status"] != "cancelled":
                await asyncio.sleep(0.05)
    assert set(await documents(runtime, store)) == {"a"}


async def test_a_write_that_was_done_needs_no_source_any_more(runtime: Runtime, store: str) -> None:
    ingest_service = runtime.services.ingest
    async with serving(says(once(b"a page", "Content-Type: text/plain"))) as site:
        origin = Origin(url=f"http://127.0.0.1:{site.port}/p.txt")
        first = await ingest_service.add(OWNER, store, origin, idempotency_key="once")
    again = await ingest_service.add(OWNER, store, origin, idempotency_key="once")
    assert again == first == {"store": store, "document": origin.url, "chunks": 1}
    with pytest.raises(Unavailable) as told:
        await ingest_service.add(OWNER, store, origin)
    assert told.value.param == "url"


async def test_reading_needs_the_right_to_read(runtime: Runtime, store: str) -> None:
    await put(runtime, "open/a.txt", b"open")
    await put(runtime, "closed/a.txt", b"closed")
    scopes = frozenset({f"write:vector://{store}/*", "read:object://papers/open/*"})
    caller = Principal("default", "someone", scopes)
    add = runtime.services.ingest.add
    await add(caller, store, Origin(object="papers/open/a.txt"))
    async with serving(says(once(b"page"))) as site:
        for origin in (
            Origin(object="papers/closed/a.txt"),
            Origin(url=f"http://127.0.0.1:{site.port}/"),
        ):
            with pytest.raises(Forbidden):
                await add(caller, store, origin)
        with pytest.raises(Forbidden):
            await add(caller, "another", Origin(url=f"http://127.0.0.1:{site.port}/"))
        assert site.asked == []
    with pytest.raises(NotFound):
        await add(
            Principal("elsewhere", "x", OWNER.scopes), store, Origin(object="papers/open/a.txt")
        )


async def test_a_right_to_some_pages_leads_to_no_others(runtime: Runtime, store: str) -> None:
    async def answer(path: str) -> AsyncIterator[bytes]:
        to = {"/open/out": "/closed/page", "/open/on": "/open/page?x=1"}.get(path)
        found = once(b"", f"Location: {to}", status="302 Found") if to else once(b"a page")
        yield found

    async with serving(answer) as site:
        base = f"http://127.0.0.1:{site.port}"
        caller = Principal(
            "default", "someone", frozenset({f"write:vector://{store}/*", f"read:{base}/open/*"})
        )
        add = runtime.services.ingest.add
        for path in ("out", "../closed/page", "x/../../closed/page", "%2E%2e/closed/page"):
            with pytest.raises(Forbidden, match="/closed/page"):
                await add(caller, store, Origin(url=f"{base}/open/{path}"))
        assert [path for path, _ in site.asked] == ["/open/out"]
        for path in ("on", "page", "x/../page"):
            assert (await add(caller, store, Origin(url=f"{base}/open/{path}")))["chunks"] == 1


async def test_the_query_of_a_url_is_not_in_the_audit(runtime: Runtime, store: str) -> None:
    async with serving(says(once(b"page"))) as site:
        await ingest(runtime, store, {"url": f"http://127.0.0.1:{site.port}/{store}?key=hidden"})
    async with asyncio.timeout(30):
        while True:
            async with runtime.engines.control.connect() as connection:
                query = text("select uri, labels from audit where uri like :uri")
                rows = (await connection.execute(query, {"uri": f"http%/{store}%"})).all()
            if rows:
                break
            await asyncio.sleep(0.05)
    assert [row.uri for row in rows] == [f"http://127.0.0.1:{site.port}/{store}"]
    assert "egress" in rows[0].labels


@pytest.mark.parametrize(
    ("sources", "error"),
    [
        ([], "sources: give 1 to 1000"),
        ([{}], "text: give text, object or url"),
        ([{"text": "a", "url": "http://a.example/"}], "text: give text, object or url"),
        ([{"object": "nothing"}], "object: 'nothing' is not BUCKET/KEY"),
        ([{"object_prefix": "papers/", "document": "d"}], "object_prefix: it stands for several"),
        ([{"file": "x"}], "sources"),
        ([{"text": "a"}] * 1001, "sources: give 1 to 1000"),
    ],
)
async def test_malformed_sources_are_refused(
    runtime: Runtime, store: str, sources: list[dict[str, Any]], error: str
) -> None:
    result = await runtime.bus.call(OWNER, "vector_ingest", {"store": store, "sources": sources})
    assert result.is_error
    assert f"invalid_input: {error}" in result.text


@pytest.mark.parametrize("most", [0, 63, 9000])
async def test_a_chunk_has_sane_bounds(runtime: Runtime, store: str, most: int) -> None:
    with pytest.raises(InvalidInput, match="not within 64-8192 tokens"):
        await runtime.services.ingest.add(OWNER, store, Origin(text="x"), max_tokens=most)


async def test_another_store_of_another_model_is_told_for_each_document(
    runtime: Runtime, store: str
) -> None:
    await ingest(runtime, store, {"text": "a", "document": "a"})
    async with runtime.engines.control.begin() as tx:
        change = text("update vector_stores set embedding_model = 'another' where name = :name")
        await tx.execute(change, {"name": store})
    done = await ingest(runtime, store, {"text": "b", "document": "b"})
    assert done["documents"][0]["error"].startswith(Conflict.code)
