"""A store that has grown gets a shard and an index of its own: what it answers stays, and nobody waits."""

from __future__ import annotations

import anyio
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.vector_world import SHARES, Cloud, Filled, fill
from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.vectors import VectorService
from mcp_server.storage.sql.schema import vector_stores
from mcp_server.storage.vectors import VectorEngine, open_vectors
from mcp_server.storage.vectors.postgresql import dense
from mcp_server.storage.vectors.postgresql.shards import Shards
from tests.contract.vectors.hashed_words import HashedWords
from tests.contract.vectors.reading import LONG, MODES, found

QUESTIONS = range(20)


async def state(control: AsyncEngine, who: Principal, name: str) -> tuple[int, str]:
    async with control.connect() as tx:
        query = select(vector_stores.c.shard, vector_stores.c.index_state).where(
            vector_stores.c.tenant == who.tenant, vector_stores.c.name == name
        )
        row = (await tx.execute(query)).one()
        return row.shard, row.index_state


async def in_shards(control: AsyncEngine, who: Principal) -> dict[int, int]:
    async with control.connect() as tx:
        query = text("select shard, count(*) from chunk_vectors where tenant = :t group by shard")
        return {row[0]: row[1] for row in await tx.execute(query, {"t": who.tenant})}


async def recalls(filled: Filled) -> dict[str, float]:
    return {
        share: round(await filled.recall(QUESTIONS, below), 3) for share, below in SHARES.items()
    }


async def test_filtered_recall_is_that_of_an_exact_search(
    control: AsyncEngine,
    engine: VectorEngine,
    principal: Principal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dense, "EXACT_CHUNKS", 100)  # so that the index answers most of it
    filled = await fill(control, engine, principal.tenant, "cloud", Cloud.of(4000))
    if engine.name == "postgresql":
        assert min((await recalls(filled)).values()) == 1
        await Shards(control, 3000).run()
        assert (await state(control, principal, "cloud"))[1] == "ready"
    figures = await recalls(filled)
    print(engine.name, figures)
    assert min(figures.values()) >= 0.95, figures


async def test_an_index_answers_once_it_is_there(
    control: AsyncEngine, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_vectors(None, control) as engine:
        filled = await fill(control, engine, principal.tenant, "cloud", Cloud.of(1000))
        await Shards(control, 900).run()
        shard, ready = await state(control, principal, "cloud")
        assert ready == "ready"
        assert await in_shards(control, principal) == {shard: 1000}

        async def scans() -> int:
            async with control.connect() as tx:
                await tx.execute(text("select pg_stat_force_next_flush()"))
                query = "select idx_scan from pg_stat_user_indexes where indexrelname = :name"
                return await tx.scalar(text(query), {"name": f"chunk_vectors_{shard}_nearest"}) or 0

        before = await scans()
        assert await filled.recall(QUESTIONS, 1000) >= 0.95
        with anyio.fail_after(10):
            while await scans() < before + len(QUESTIONS):
                await anyio.sleep(0.05)


async def test_search_and_writers_go_on_while_a_store_moves_and_a_crash_costs_only_time(
    control: AsyncEngine,
    operations: Operations,
    principal: Principal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_vectors(None, control) as engine:
        vectors = VectorService(operations, control, engine, HashedWords())
        for number in range(30):
            await vectors.add(principal, "s", f"{LONG} only{number}", document=f"d{number:02}")
        await vectors.add(principal, "small", "its neighbour", document="d")
        shards = Shards(control, 100)
        done = anyio.Event()

        async def write() -> None:
            turn = 0
            while not done.is_set():
                name = f"d{turn % 30:02}"
                await vectors.add(principal, "s", f"{LONG} only{turn % 30} {turn}", document=name)
                turn += 1
            assert turn > 1

        async def read() -> None:
            looked = 0
            while not done.is_set():
                for mode in MODES:
                    answer = await vectors.search(principal, "s", "topic7", k=100, mode=mode)
                    assert len(set(found(answer))) == 30
                    looked += 1
            assert looked > 1

        async def die(*_: object) -> None:
            raise ZeroDivisionError

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            tasks.start_soon(read)
            for step in ("_move", "_build"):
                with monkeypatch.context() as patch:
                    patch.setattr(shards, step, die)
                    with pytest.raises(ZeroDivisionError):
                        await shards.run()
            async with control.execution_options(isolation_level="AUTOCOMMIT").connect() as tx:
                shard, half = await state(control, principal, "s")
                assert half == "building"
                # What a build that was killed leaves: an index that counts for nothing.
                name = f"chunk_vectors_{shard}_nearest"
                await tx.execute(text(f"create index {name} on chunk_vectors_{shard} (id)"))
            await shards.run()
            done.set()
        shard, ready = await state(control, principal, "s")
        assert ready == "ready"
        await shards.run()
        held = await in_shards(control, principal)
        assert held.pop(0) == 1
        assert list(held) == [shard]
        for mode in MODES:
            answer = await vectors.search(principal, "s", "only7", k=1, mode=mode)
            assert mode == "dense" or found(answer) == ["d07"]
        await vectors.delete(principal, "s", document="d07")
        assert "d07" not in found(await vectors.search(principal, "s", "only7", k=100))
        await vectors.delete_store(principal, "s")
        await shards.run()
        async with control.connect() as tx:
            gone = await tx.scalar(
                text("select to_regclass(:t)::text"), {"t": f"chunk_vectors_{shard}"}
            )
        assert gone is None
        assert found(await vectors.search(principal, "small", "neighbour")) == ["d"]
