"""A document is there whole or not at all: failures, writers and readers at the same time."""

from __future__ import annotations

import anyio
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound, Unavailable
from mcp_server.operation import Operations
from mcp_server.services.vectors import VectorService
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.schema import chunk_vectors, chunks
from mcp_server.storage.vectors import open_vectors
from tests.contract.vectors.hashed_words import HashedWords
from tests.contract.vectors.reading import LONG, MODES, count, found


async def test_a_failing_model_leaves_nothing_behind(
    vectors: VectorService,
    principal: Principal,
    embedder: HashedWords,
    control: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await vectors.add(principal, "s", "the old text", document="d")

    async def fail(texts: object) -> list[list[float]]:
        raise Unavailable("the embedding model does not answer")

    monkeypatch.setattr(embedder, "embed", fail)
    with pytest.raises(Unavailable):
        await vectors.add(principal, "s", LONG, document="d")
    with pytest.raises(Unavailable):
        await vectors.add(principal, "fresh", LONG, document="d")
    monkeypatch.undo()
    assert (await vectors.get(principal, "s", "d"))["text"] == "the old text"
    with pytest.raises(NotFound):
        await vectors.list(principal, "fresh")


async def test_no_connection_is_held_while_the_model_embeds(
    principal: Principal,
    operations: Operations,
    cluster: Cluster,
    embedder: HashedWords,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = cluster.control_url.replace("postgresql://", "postgresql+asyncpg://", 1)
    single = create_async_engine(url, pool_size=1, max_overflow=0)
    embed = embedder.embed

    async def embed_with_the_only_connection(texts: list[str]) -> list[list[float]]:
        with anyio.fail_after(10):
            async with single.connect():
                return await embed(texts)

    monkeypatch.setattr(embedder, "embed", embed_with_the_only_connection)
    async with open_vectors(None, single) as engine:
        vectors = VectorService(operations, single, engine, embedder)
        await vectors.add(principal, "s", LONG, document="d")
        assert found(await vectors.search(principal, "s", "topic1", k=1)) == ["d"]
    assert len(embedder.calls) == 2
    await single.dispose()


async def test_a_document_is_seen_old_or_new_and_never_in_between(
    vectors: VectorService, principal: Principal
) -> None:
    versions = [f"marker of version{number} stands here. " * 150 for number in range(2)]
    size = (await vectors.add(principal, "s", versions[0], document="d"))["chunks"]
    assert size > 4
    done = anyio.Event()

    async def write() -> None:
        for turn in range(1, 16):
            await vectors.add(principal, "s", versions[turn % 2], document="d")
        done.set()

    looked = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        while not done.is_set():
            for mode in MODES:
                answer = await vectors.search(principal, "s", "marker", k=100, mode=mode)
                assert len(answer["results"]) == size
                assert len({item["text"].split()[2] for item in answer["results"]}) == 1
                looked += 1
            assert (await vectors.get(principal, "s", "d"))["text"] in versions
    assert looked > 3


async def test_writers_of_one_document_follow_each_other(
    vectors: VectorService, principal: Principal, control: AsyncEngine
) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(12):
            text = f"writer{number} " * (1 + number * 40)
            tasks.start_soon(lambda text=text: vectors.add(principal, "race", text, document="d"))
    whole = await vectors.get(principal, "race", "d")
    assert len(set(whole["text"].split())) == 1
    assert await count(control, chunks, principal) == whole["chunks"]
    assert await count(control, chunk_vectors, principal) == whole["chunks"]
    rows, _ = await journal.read(control, principal.tenant, None, 1000)
    versions = [(row["prev_version"], row["version"]) for row in rows]
    assert len(versions) == 12
    assert {before for before, _ in versions} - {None} == {v for _, v in versions} - {
        max(v for _, v in versions)
    }
