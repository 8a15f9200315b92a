"""What only an engine with a server of its own must bear: crashes, restarts, entries that no row names."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.vector_world import CHUNKS_IN_DOCUMENT, Cloud, fill
from benchmarks.vectors import segments_built
from mcp_server.audit import Audit
from mcp_server.auth.principal import Principal
from mcp_server.errors import ConfigurationError, Conflict, Unavailable
from mcp_server.operation import Operations
from mcp_server.services.derived_erasure import VectorErasure
from mcp_server.services.erasure import Erasure
from mcp_server.services.vectors import VectorService
from mcp_server.storage.objects.file import open_file_store
from mcp_server.storage.vectors import VectorEngine, open_vectors
from mcp_server.storage.vectors.milvus import garbage, visible
from mcp_server.storage.vectors.milvus.client import Collections
from tests.contract.vectors.hashed_words import HashedWords
from tests.contract.vectors.milvus_world import entities, waiting, without_keeper
from tests.contract.vectors.reading import LONG, MODES, found
from tests.servers.milvus import MilvusLite
from tests.servers.ports import free_ports


async def answering(engine: VectorEngine) -> None:
    """Return when the engine answers again: the library waits ever longer between its tries."""
    with anyio.fail_after(60):
        while True:
            try:
                return await engine.answers()
            except Unavailable:
                await anyio.sleep(0.1)


SOURCE = Path(__file__).read_text(encoding="utf-8")


async def test_a_server_that_was_killed_is_searched_again_when_it_is_back(
    control: AsyncEngine, operations: Operations, principal: Principal
) -> None:
    with MilvusLite() as server:
        async with without_keeper(server.url, control) as engine:
            vectors = VectorService(operations, control, engine, HashedWords())
            await vectors.add(principal, "s", LONG, document="d")
            server.kill()
            with pytest.raises(Unavailable):
                await vectors.search(principal, "s", "topic3", mode="dense")
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await vectors.add(principal, "s", "more", document="e")
            assert found(await vectors.search(principal, "s", "topic3", k=1, mode="text")) == ["d"]
            server.start()
            await answering(engine)
            for mode in MODES:  # its collections are released until they are loaded
                assert found(await vectors.search(principal, "s", "topic3", k=1, mode=mode)) == [
                    "d"
                ]
            await vectors.add(principal, "s", "more", document="e")
            while await engine.collect():
                pass
            chunks = (await vectors.list(principal, "s"))["items"]
            held = await entities(server.url, control, principal.tenant)
            assert len(held) >= sum(item["chunks"] for item in chunks)
        async with open_vectors(server.url, control) as engine:
            vectors = VectorService(operations, control, engine, HashedWords())
            assert found(await vectors.search(principal, "s", "more", k=1)) == ["e"]


async def test_what_no_row_names_is_collected_and_nothing_else(
    control: AsyncEngine, operations: Operations, principal: Principal, milvus_url: str
) -> None:
    async with without_keeper(milvus_url, control) as engine:
        vectors = VectorService(operations, control, engine, HashedWords())

        async def held() -> int:
            return len(await entities(milvus_url, control, principal.tenant))

        size = (await vectors.add(principal, "s", LONG, document="d"))["chunks"]
        await vectors.add(principal, "s", "to be replaced", document="e")
        await vectors.add(principal, "s", "its replacement", document="e")
        await vectors.add(principal, "s", "to be deleted", document="f")
        await vectors.delete(principal, "s", document="f")
        lost = await vectors.draft_write(principal, "s", "never committed", document="g")
        async with operations(principal, "write", lost.uri) as op:
            await lost.prepare(op)
        assert await held() == size + 4
        while await engine.collect():
            pass
        assert await held() == size + 2  # what is prepared may still be published
        assert await waiting(control, principal.tenant) == 1
        async with control.begin() as tx:
            query = "update vector_garbage set due_at = now() where tenant = :tenant"
            await tx.execute(text(query), {"tenant": principal.tenant})
        while await engine.collect():
            pass
        assert await held() == size + 1
        assert await waiting(control, principal.tenant) == 0
        async with operations(principal, "write", lost.uri) as op, control.connect() as tx:
            with pytest.raises(Conflict, match="prepared too long ago"):
                await lost.apply(tx, op)
        for mode in MODES:
            assert found(
                await vectors.search(principal, "s", "its replacement", k=1, mode=mode)
            ) == ["e"]
        await vectors.delete_store(principal, "s")
        while await engine.collect():
            pass
        assert await held() == 0


async def test_a_collector_that_dies_in_the_middle_leaves_its_work_to_the_next(
    control: AsyncEngine, operations: Operations, principal: Principal, milvus_url: str
) -> None:
    async with without_keeper(milvus_url, control) as engine:
        vectors = VectorService(operations, control, engine, HashedWords())
        await vectors.add(principal, "s", "some text", document="d")
        await vectors.delete(principal, "s", document="d")
        assert principal.tenant in [each.store.tenant for each in await garbage.take(control)]
        assert await waiting(control, principal.tenant) == 1  # marked, and nothing deleted yet
        while await engine.collect():
            pass
        assert await waiting(control, principal.tenant) == 0
        assert not await entities(milvus_url, control, principal.tenant)


async def test_a_store_of_another_engine_is_refused_not_empty(
    control: AsyncEngine, operations: Operations, principal: Principal, milvus_url: str
) -> None:
    async with open_vectors(None, control) as own, without_keeper(milvus_url, control) as other:
        here = VectorService(operations, control, own, HashedWords())
        there = VectorService(operations, control, other, HashedWords())
        await here.add(principal, "s", "text", document="d")
        for call in (
            there.search(principal, "s", "text"),
            there.add(principal, "s", "text", document="e"),
            there.delete(principal, "s", document="d"),
            there.delete_store(principal, "s"),
        ):
            with pytest.raises(Conflict, match="is held by the engine postgresql"):
                await call


async def test_a_server_that_does_not_answer_is_named_at_the_start(control: AsyncEngine) -> None:
    [port] = free_ports(1)
    with pytest.raises(ConfigurationError, match="ISTHMUS_VECTORS_URL: no Milvus answers at"):
        async with open_vectors(f"milvus://127.0.0.1:{port}", control):
            pass
    for url in ("milvus://", "milvus://h:x", "milvus://h?secure=perhaps", "milvus://h?a=1"):
        with pytest.raises(ConfigurationError, match="ISTHMUS_VECTORS_URL: it is not milvus://"):
            async with open_vectors(url, control):
                pass


class Distinct(HashedWords):
    """No two texts are equally near to a third: the order leaves nothing to chance."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        noise = [random.Random(text) for text in texts]
        return [
            [value + own.uniform(-0.02, 0.02) for value in vector]
            for own, vector in zip(noise, await super().embed(texts), strict=True)
        ]


async def test_both_engines_rank_alike(
    control: AsyncEngine, operations: Operations, principal: Principal, milvus_url: str
) -> None:
    words = SOURCE.split()
    texts = {f"d{n:03}": " ".join(words[n * 7 : n * 7 + 40]) for n in range(60)}
    async with open_vectors(None, control) as own, open_vectors(milvus_url, control) as other:
        answers: list[list[list[tuple[str, float]]]] = []
        for engine in (own, other):
            vectors = VectorService(operations, control, engine, Distinct())
            for name, body in texts.items():
                metadata = {"even": int(name[1:]) % 2 == 0}
                await vectors.add(principal, engine.name, body, document=name, metadata=metadata)
            asked: list[list[tuple[str, float]]] = []
            for query in ("vectors.search principal", "held == size", "await engine.collect():"):
                for mode in MODES:
                    for only in (None, {"type": "eq", "key": "even", "value": True}):
                        answer = await vectors.search(
                            principal, engine.name, query, k=20, mode=mode, filter=only
                        )
                        asked.append(
                            [(each["document"], each["score"]) for each in answer["results"]]
                        )
            answers.append(asked)
    for here, there in zip(*answers, strict=True):
        assert [name for name, _ in here] == [name for name, _ in there]
        scores = [score for _, score in here]
        assert scores == pytest.approx([score for _, score in there], abs=1e-4)


async def test_a_filter_that_admits_only_what_is_far_from_the_query_is_answered_nevertheless(
    control: AsyncEngine, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = Cloud.of(3000)
    first = near.vectors[:1]
    vectors = near.vectors * 0.1 + first  # all of them in one direction ...
    vectors[:CHUNKS_IN_DOCUMENT] -= 2 * first  # ... but those of the first document
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = vectors[CHUNKS_IN_DOCUMENT : CHUNKS_IN_DOCUMENT + 5]
    monkeypatch.setattr(visible, "EF", 10)  # a walk that ends long before it has seen all
    monkeypatch.setattr(visible, "ADMITTED", 1)
    with MilvusLite() as server:
        async with without_keeper(server.url, control) as engine:
            cloud = Cloud(vectors, asked)
            filled = await fill(control, engine, principal.tenant, "cloud", cloud)
            await engine._collections.flush(0, 0)
            await segments_built(server)
            assert await filled.recall(range(5), 1) >= 0.95
            # Few of very many are read and compared.
            monkeypatch.setattr("mcp_server.storage.vectors.milvus.engine.WIDEST_WALK", 0)
            monkeypatch.setattr(engine._collections, "search", None)
            assert await filled.recall(range(5), 1) == 1


class Writing:
    """A call that was under way when its tenant's erasure began, and ends after the engine was emptied."""

    name = "a call"

    def __init__(self, vectors: VectorService, who: Principal) -> None:
        self._vectors, self._who = vectors, who
        self.refused = 0

    async def erase(self, tenant: str) -> None:
        del tenant
        try:
            await self._vectors.add(self._who, "s", "a late text", document="late")
        except Conflict:
            self.refused += 1

    async def left(self, tenant: str) -> dict[str, int]:
        del tenant
        return {}


async def test_a_write_that_outlasts_an_erasure_leaves_nothing_in_the_engine(
    control: AsyncEngine,
    operations: Operations,
    principal: Principal,
    milvus_url: str,
    tmp_path: Path,
) -> None:
    async with open_vectors(milvus_url, control) as engine, open_file_store(tmp_path) as blobs:
        vectors = VectorService(operations, control, engine, HashedWords(), undo_days=1)
        await vectors.add(principal, "s", LONG, document="d")
        assert await entities(milvus_url, control, principal.tenant)
        late = Writing(vectors, principal)
        places = [VectorErasure(control, engine), late]
        erasure = Erasure(control, blobs, places, Audit(), last_calls=0)
        await erasure.erase(principal.tenant)
        assert late.refused
        with anyio.fail_after(30):
            while (await erasure.left(principal.tenant))["vectors: waiting for collection"]:
                await anyio.sleep(0.1)
        left = await erasure.left(principal.tenant)
        # The call's own audit may come later.
        assert {name for name, count in left.items() if count} <= {"control: audit"}
        assert not await entities(milvus_url, control, principal.tenant)


async def test_an_insert_that_arrives_after_its_call_was_given_up_is_collected_too(
    control: AsyncEngine,
    operations: Operations,
    principal: Principal,
    milvus_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with without_keeper(milvus_url, control) as engine:
        vectors = VectorService(operations, control, engine, HashedWords())
        await vectors.add(principal, "s", "kept", document="kept")
        sent: list[tuple[Any, ...]] = []

        async def silent(self: Collections, *given: Any) -> None:
            sent.append((self, *given))
            raise Unavailable("the vector engine does not answer as it should; try again")

        insert = Collections.insert
        with monkeypatch.context() as slow:
            slow.setattr(Collections, "insert", silent)
            with pytest.raises(Unavailable):
                await vectors.add(principal, "s", "given up", document="lost")
        while await engine.collect():
            pass
        for given in sent:
            await insert(*given)
        assert len(await entities(milvus_url, control, principal.tenant)) == 2
        async with control.begin() as tx:
            query = "update vector_garbage set due_at = now() where tenant = :tenant"
            await tx.execute(text(query), {"tenant": principal.tenant})
        while await engine.collect():
            pass
        assert len(await entities(milvus_url, control, principal.tenant)) == 1
