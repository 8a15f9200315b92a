"""Writes of documents as drafts: held beside others, undone, finished by another process, given back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, NotFound
from mcp_server.operation import Operations
from mcp_server.services.vectors import VectorService
from mcp_server.services.vectors.indexing import Indexer
from mcp_server.services.vectors.versions import purge
from mcp_server.services.writes import Draft, Record, carry_out
from mcp_server.storage.sql.document_tables import document_versions
from mcp_server.storage.vectors import VectorEngine
from tests.contract.vectors.hashed_words import HashedWords
from tests.contract.vectors.reading import LONG, MODES, changes, count, found


@pytest.fixture
def vectors(
    operations: Operations, control: AsyncEngine, engine: VectorEngine, embedder: HashedWords
) -> VectorService:
    return VectorService(operations, control, engine, embedder, undo_days=1)


class Changed:
    """The journal of a tenant, newest last, and what undoes an entry."""

    def __init__(
        self, operations: Operations, control: AsyncEngine, vectors: VectorService, who: Principal
    ) -> None:
        self._operations, self._control = operations, control
        self._vectors, self._who = vectors, who

    async def entries(self) -> list[dict[str, Any]]:
        return (await journal.read(self._control, self._who.tenant, None, 1000))[0]

    async def undo(self, entry: dict[str, Any]) -> dict[str, Any]:
        draft = await self._vectors.draft_restore(
            self._who, entry["uri"], entry["prev_version"], entry["version"] or 0
        )
        return await self.carry_out(draft)

    async def carry_out(self, draft: Draft) -> dict[str, Any]:
        async with self._operations(self._who, draft.verb, draft.uri) as op:
            return await carry_out(self._control, op, draft)


@pytest.fixture
def changed(
    operations: Operations, control: AsyncEngine, vectors: VectorService, principal: Principal
) -> Changed:
    return Changed(operations, control, vectors, principal)


async def test_what_was_replaced_comes_back_with_all_it_had(
    vectors: VectorService, principal: Principal, changed: Changed
) -> None:
    await vectors.add(principal, "s", LONG, document="d", metadata={"v": 1})
    before = await vectors.search(principal, "s", "topic7", k=1, mode="text")
    await vectors.add(principal, "s", "short and new", document="d", metadata={"v": 2})
    await changed.undo((await changed.entries())[-1])
    assert (await vectors.get(principal, "s", "d"))["text"] == LONG
    assert await vectors.search(principal, "s", "topic7", k=1, mode="text") == before
    for mode in MODES:
        answer = await vectors.search(principal, "s", "short and new", mode=mode, k=100)
        assert "short and new" not in [item["text"] for item in answer["results"]]
    await changed.undo((await changed.entries())[-1])  # the undo is a change as any other
    assert (await vectors.get(principal, "s", "d"))["text"] == "short and new"
    assert (await vectors.get(principal, "s", "d"))["metadata"] == {"v": 2}


async def test_what_was_made_is_gone_after_an_undo_and_what_was_deleted_is_back(
    vectors: VectorService, principal: Principal, changed: Changed
) -> None:
    await vectors.add(principal, "s", "some text", document="d")
    made = (await changed.entries())[-1]
    assert await changed.undo(made) == {"deleted": 1}
    with pytest.raises(NotFound):
        await vectors.get(principal, "s", "d")
    await changed.undo((await changed.entries())[-1])
    assert found(await vectors.search(principal, "s", "some text")) == ["d"]
    two = {"type": "ne", "key": "a", "value": 0}
    assert await vectors.delete(principal, "s", filter=two) == {"deleted": 1}
    await changed.undo((await changed.entries())[-1])
    assert (await vectors.get(principal, "s", "d"))["text"] == "some text"


async def test_a_document_that_changed_since_is_left_alone(
    vectors: VectorService, principal: Principal, changed: Changed
) -> None:
    await vectors.add(principal, "s", "one", document="d")
    await vectors.add(principal, "s", "two", document="d")
    second = (await changed.entries())[-1]
    await vectors.add(principal, "s", "three", document="d")
    third = (await changed.entries())[-1]
    with pytest.raises(Conflict, match=f"has changed since, version is {third['version']}"):
        await changed.undo(second)
    await vectors.delete(principal, "s", document="d")
    with pytest.raises(Conflict, match="has changed since, version is 0"):
        await changed.undo(third)
    assert not (await vectors.list(principal, "s"))["items"]


async def test_versions_are_kept_for_their_time_only(
    vectors: VectorService, principal: Principal, changed: Changed, control: AsyncEngine
) -> None:
    await vectors.add(principal, "s", "one", document="d")
    await vectors.add(principal, "s", "two", document="d")
    await purge(control, 3600)
    assert await count(control, document_versions, principal) == 1
    async with control.begin() as tx:
        await tx.execute(
            text(
                "update document_versions set replaced_at = replaced_at - interval '2 hours'"
                " where tenant = :tenant"
            ),
            {"tenant": principal.tenant},
        )
    await purge(control, 3600)
    assert await count(control, document_versions, principal) == 0
    with pytest.raises(Conflict, match="is not kept any more"):
        await changed.undo((await changed.entries())[-1])


async def test_without_days_of_undo_nothing_is_kept(
    operations: Operations,
    control: AsyncEngine,
    engine: VectorEngine,
    embedder: HashedWords,
    principal: Principal,
) -> None:
    vectors = VectorService(operations, control, engine, embedder)
    for words in ("one", "two"):
        await vectors.add(principal, "s", words, document="d")
    await vectors.delete(principal, "s", document="d")
    assert await count(control, document_versions, principal) == 0


async def test_nothing_shows_until_the_transaction_commits_and_nothing_stays_if_it_does_not(
    vectors: VectorService,
    operations: Operations,
    principal: Principal,
    control: AsyncEngine,
    changed: Changed,
) -> None:
    await vectors.add(principal, "s", "the old text", document="d")
    before = await changes(control, principal)
    draft = await vectors.draft_write(principal, "s", "entirely new", document="d")
    gone = await vectors.draft_delete(principal, "s", "e")
    async with operations(principal, draft.verb, draft.uri) as op:
        await draft.prepare(op)
        async with control.connect() as tx:
            await draft.apply(tx, op)
            await gone.apply(tx, op)
            assert (await vectors.get(principal, "s", "d"))["text"] == "the old text"
            await tx.rollback()
    await draft.abandon()
    assert (await vectors.get(principal, "s", "d"))["text"] == "the old text"
    for mode in MODES:
        answer = await vectors.search(principal, "s", "entirely new", mode=mode)
        assert [item["text"] for item in answer["results"] if item["text"] != "the old text"] == []
    assert await changes(control, principal) == before


async def test_another_process_finishes_a_recorded_write_without_a_model(
    vectors: VectorService,
    operations: Operations,
    principal: Principal,
    control: AsyncEngine,
    engine: VectorEngine,
    embedder: HashedWords,
    changed: Changed,
) -> None:
    draft = await vectors.draft_write(
        principal, "s", LONG, document="d", metadata={"a": 1}, title="A title", source="a source"
    )
    async with operations(principal, draft.verb, draft.uri) as op:
        await draft.prepare(op)
    record = Record(json.loads(json.dumps(draft.record().content)))
    await draft.abandon()

    class NoModel(HashedWords):
        async def embed(self, texts: object) -> list[list[float]]:
            raise AssertionError("a model was asked")

    other = VectorService(operations, control, engine, NoModel())
    nobody = Principal(principal.tenant, "nobody", frozenset())
    with pytest.raises(Forbidden):
        await other.draft_recorded(nobody, draft.uri, record)
    await changed.carry_out(await other.draft_recorded(principal, draft.uri, record))
    assert (await vectors.get(principal, "s", "d"))["text"] == LONG
    [best] = (await vectors.search(principal, "s", "topic7", k=1, mode="text"))["results"]
    assert (best.get("title"), best.get("source")) == ("A title", "a source")
    assert LONG[best["start"] : best["end"]] == best["text"]

    again = await vectors.draft_write(
        principal, "s", LONG, document="d", metadata={"a": 1}, title="A title", source="a source"
    )
    async with operations(principal, again.verb, again.uri) as op:
        await again.prepare(op)
    before = await changes(control, principal)
    answer = await changed.carry_out(
        await other.draft_recorded(principal, again.uri, again.record())
    )
    assert answer["chunks"] > 1
    assert await changes(control, principal) == before

    gone = await vectors.draft_delete(principal, "s", "d")
    await changed.carry_out(await other.draft_recorded(principal, gone.uri, gone.record()))
    assert not (await vectors.list(principal, "s"))["items"]


async def test_metadata_changes_without_a_model_and_can_be_undone(
    vectors: VectorService,
    principal: Principal,
    embedder: HashedWords,
    control: AsyncEngine,
    changed: Changed,
) -> None:
    for number in range(4):
        metadata = {"n": number, "old": True}
        await vectors.add(
            principal, "s", f"word{number} common", document=f"d{number}", metadata=metadata
        )
    calls = len(embedder.calls)
    high = {"type": "gte", "key": "n", "value": 2}
    patch = {"group": "high", "old": None}
    assert await vectors.update(principal, "s", patch, filter=high) == {"updated": 2}
    assert await vectors.update(principal, "s", {"group": "low"}, document="d0") == {"updated": 1}
    assert await vectors.update(principal, "s", {"group": "x"}, document="absent") == {"updated": 0}
    assert len(embedder.calls) == calls
    assert (await vectors.get(principal, "s", "d3"))["metadata"] == {"n": 3, "group": "high"}
    grouped = {"type": "eq", "key": "group", "value": "high"}
    for mode in MODES:
        answer = await vectors.search(principal, "s", "common", filter=grouped, mode=mode)
        assert sorted(found(answer)) == ["d2", "d3"]
    entry = (await changed.entries())[-1]
    assert entry["uri"] == "vector://s/d0"
    before = await changes(control, principal)
    assert await vectors.update(principal, "s", {"group": "low"}, document="d0") == {"updated": 1}
    assert await changes(control, principal) == before  # nothing changed
    await changed.undo(entry)
    assert (await vectors.get(principal, "s", "d0"))["metadata"] == {"n": 0, "old": True}


async def test_a_deleted_store_is_gone_with_all_it_had(
    vectors: VectorService, principal: Principal, control: AsyncEngine, changed: Changed
) -> None:
    for words in ("one", "two", "three"):
        await vectors.add(principal, "s", words, document="d")
    await vectors.add(principal, "t", "another store", document="d")
    assert await vectors.delete_store(principal, "s") == {"deleted": True}
    assert await vectors.delete_store(principal, "s") == {"deleted": False}
    with pytest.raises(NotFound):
        await vectors.search(principal, "s", "one")
    async with control.connect() as tx:
        for table in ("documents", "chunks", "chunk_vectors", "document_versions"):
            left = await tx.scalar(
                text(f"select count(*) from {table} where tenant = :t"),
                {"t": principal.tenant},
            )
            assert left == (0 if table == "document_versions" else 1), table
    last = (await changed.entries())[-1]
    assert (last["verb"], last["uri"]) == ("delete", "vector://s/")
    with pytest.raises(Conflict, match="cannot be brought back"):
        await changed.undo(last)
    await vectors.add(principal, "s", "begins anew", document="e")
    for mode in MODES:
        assert found(await vectors.search(principal, "s", "one two three anew", mode=mode)) == ["e"]


async def test_only_who_may_write_a_whole_store_deletes_it(
    vectors: VectorService, principal: Principal
) -> None:
    await vectors.add(principal, "s", "text", document="pub/1")
    some = Principal(principal.tenant, "some", frozenset({"write:vector://s/pub/*"}))
    with pytest.raises(Forbidden):
        await vectors.delete_store(some, "s")
    everything = {"type": "ne", "key": "a", "value": 0}
    assert await vectors.update(some, "s", {"a": 1}, filter=everything) == {"updated": 1}
    with pytest.raises(Forbidden):
        await vectors.update(some, "s", {"a": 1}, document="priv/1")
    whole = Principal(principal.tenant, "all", frozenset({"write:vector://s/*"}))
    assert await vectors.delete_store(whole, "s") == {"deleted": True}


@pytest.mark.parametrize("call", ["delete", "delete some", "update"])
async def test_a_change_and_the_deletion_of_its_store_never_wait_for_each_other(
    vectors: VectorService,
    principal: Principal,
    control: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    await vectors.add(principal, "s", "some text", document="d", metadata={"a": 1})
    deleting: list[asyncio.Task[Any]] = []
    keep = Indexer.keep

    async def late(self: Indexer, tx: AsyncConnection, *given: Any) -> None:
        """The documents are locked: let the store's deletion come as far as it can."""
        if not deleting:
            deleting.append(asyncio.create_task(vectors.delete_store(principal, "s")))
            pid = await tx.scalar(text("select pg_backend_pid()"))
            blocked = text(
                "select true from pg_stat_activity where :pid = any(pg_blocking_pids(pid))"
            )
            async with asyncio.timeout(20), control.connect() as watching:
                while not await watching.scalar(blocked, {"pid": pid}):
                    await asyncio.sleep(0.01)
        await keep(self, tx, *given)

    monkeypatch.setattr(Indexer, "keep", late)
    one = {"type": "eq", "key": "a", "value": 1}
    if call == "update":
        assert await vectors.update(principal, "s", {"a": 2}, filter=one) == {"updated": 1}
    else:
        which: dict[str, Any] = {"document": "d"} if call == "delete" else {"filter": one}
        assert await vectors.delete(principal, "s", **which) == {"deleted": 1}
    [deletion] = deleting
    assert await deletion == {"deleted": True}
