"""Undo puts back what a change replaced, once, for whoever may write there, or says why it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.services.changes import Change, ChangeService
from mcp_server.services.kv import KvService
from mcp_server.services.objects import ObjectService
from mcp_server.services.undo import UndoService
from mcp_server.services.vectors import VectorService
from mcp_server.storage.objects.file import open_file_store
from mcp_server.storage.vectors.postgresql import PostgresVectors
from tests.contract.vectors.hashed_words import HashedWords


class Shelf(Protocol):
    """One thing in one store, whose content is a text."""

    uri: str

    async def write(self, content: str) -> None: ...

    async def delete(self) -> None: ...

    async def content(self) -> str | None: ...


class Key:
    uri = "kv://n/k"

    def __init__(self, kv: KvService, who: Principal) -> None:
        self.kv, self.who = kv, who

    async def write(self, content: str) -> None:
        await self.kv.set(self.who, "n", "k", content)

    async def delete(self) -> None:
        await self.kv.delete(self.who, "n", "k")

    async def content(self) -> str | None:
        try:
            return (await self.kv.get(self.who, "n", "k"))["value"]
        except NotFound:
            return None


class Object:
    uri = "object://b/k.txt"

    def __init__(self, objects: ObjectService, who: Principal) -> None:
        self.objects, self.who = objects, who

    async def write(self, content: str) -> None:
        await self.objects.put(self.who, "b", "k.txt", text=content)

    async def delete(self) -> None:
        await self.objects.delete(self.who, "b", "k.txt")

    async def content(self) -> str | None:
        try:
            return (await self.objects.get(self.who, "b", "k.txt")).get("text")
        except NotFound:
            return None


class Document:
    uri = "vector://s/d"

    def __init__(self, vectors: VectorService, who: Principal) -> None:
        self.vectors, self.who = vectors, who

    async def write(self, content: str) -> None:
        await self.vectors.add(self.who, "s", content, document="d", metadata={"said": content})

    async def delete(self) -> None:
        await self.vectors.delete(self.who, "s", document="d")

    async def content(self) -> str | None:
        try:
            found = await self.vectors.get(self.who, "s", "d")
        except NotFound:
            return None
        assert found["metadata"] == {"said": found["text"]}
        hits = (await self.vectors.search(self.who, "s", found["text"]))["results"]
        assert [hit["text"] for hit in hits] == [found["text"]]
        return found["text"]


class World:
    """The stores, the journal and undo."""

    def __init__(self, operations: Operations, control: AsyncEngine, blobs: Any) -> None:
        self.control = control
        self.kv = KvService(operations, control, undo_days=7)
        self.objects = ObjectService(operations, control, blobs, undo_days=7)
        self.changes = ChangeService(operations, control)
        self.vectors = VectorService(
            operations, control, PostgresVectors(control), HashedWords(), undo_days=7
        )
        stores = {"kv": self.kv, "object": self.objects, "vector": self.vectors}
        self.undo = UndoService(operations, control, stores)

    def shelf(self, kind: str, who: Principal) -> Shelf:
        if kind == "document":
            return Document(self.vectors, who)
        return Key(self.kv, who) if kind == "key" else Object(self.objects, who)

    async def last(self, who: Principal) -> Change:
        """Return the newest change; it is shown once every older transaction has ended."""
        query = text("select max(seq) from journal where tenant = :t")
        async with self.control.connect() as connection:
            newest = await connection.scalar(query, {"t": who.tenant})
        async with asyncio.timeout(5):
            while True:
                items = (await self.changes.list(who))["items"]
                if items and items[-1]["change"].endswith(f".{newest}"):
                    return items[-1]
                await asyncio.sleep(0.01)

    async def undo_last(self, who: Principal) -> Change:
        """Undo the newest change, and return it."""
        change = await self.last(who)
        assert (await self.undo.undo(who, change["change"]))["uri"] == change["uri"]
        return change


@pytest.fixture
async def world(
    operations: Operations, control: AsyncEngine, tmp_path: Path
) -> AsyncIterator[World]:
    async with open_file_store(tmp_path / "blobs") as blobs:
        yield World(operations, control, blobs)


@pytest.fixture(params=["key", "object", "document"])
def shelf(request: pytest.FixtureRequest, world: World, principal: Principal) -> Shelf:
    return world.shelf(request.param, principal)


async def test_a_creation_is_undone_by_deleting(
    world: World, shelf: Shelf, principal: Principal
) -> None:
    await shelf.write("one")
    await world.undo_last(principal)
    assert await shelf.content() is None
    assert (await world.last(principal))["verb"] == "delete"


async def test_an_overwriting_is_undone_by_writing_what_was_there(
    world: World, shelf: Shelf, principal: Principal
) -> None:
    await shelf.write("one")
    await shelf.write("two")
    undone = await world.undo_last(principal)
    assert await shelf.content() == "one"
    entry = await world.last(principal)
    assert (entry["uri"], entry["verb"], entry["undid"]) == (
        shelf.uri,
        "write",
        undone["change"],
    )
    assert entry["prev_version"] == undone["version"]
    assert entry["version"] not in {undone["version"], undone["prev_version"]}


async def test_a_deletion_is_undone_by_writing_what_was_there(
    world: World, shelf: Shelf, principal: Principal
) -> None:
    await shelf.write("one")
    await shelf.delete()
    await world.undo_last(principal)
    assert await shelf.content() == "one"


async def test_an_undo_is_undone_like_any_change(
    world: World, shelf: Shelf, principal: Principal
) -> None:
    await shelf.write("one")
    await shelf.write("two")
    for content in ("one", "two", "one"):
        await world.undo_last(principal)
        assert await shelf.content() == content
    await shelf.delete()
    for content in ("one", None, "one"):
        await world.undo_last(principal)
        assert await shelf.content() == content


async def test_what_changed_since_is_left_alone_and_named(
    world: World, shelf: Shelf, principal: Principal
) -> None:
    await shelf.write("one")
    await shelf.write("two")
    change = await world.last(principal)
    await shelf.write("three")
    now = (await world.last(principal))["version"]
    with pytest.raises(Conflict, match=f"changed since, version is {now}$"):
        await world.undo.undo(principal, change["change"])
    await shelf.delete()
    with pytest.raises(Conflict, match="changed since, version is 0"):
        await world.undo.undo(principal, change["change"])
    assert await shelf.content() is None
    deletion = await world.last(principal)
    await shelf.write("four")
    with pytest.raises(Conflict, match="changed since, version is"):
        await world.undo.undo(principal, deletion["change"])
    assert await shelf.content() == "four"


async def test_a_change_is_undone_once(world: World, shelf: Shelf, principal: Principal) -> None:
    await shelf.write("one")
    await shelf.write("two")
    change = await world.undo_last(principal)
    with pytest.raises(Conflict, match=f"{change['change']} is undone already"):
        await world.undo.undo(principal, change["change"])
    assert await shelf.content() == "one"


@pytest.mark.parametrize("deleted", [False, True])
async def test_of_many_at_once_one_undoes(
    world: World, shelf: Shelf, principal: Principal, deleted: bool
) -> None:
    await shelf.write("one")
    await (shelf.delete() if deleted else shelf.write("two"))
    change = (await world.last(principal))["change"]
    calls = [world.undo.undo(principal, change) for _ in range(4)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [item for item in answers if isinstance(item, BaseException)]
    assert [type(item) for item in refused] == [Conflict] * 3
    assert await shelf.content() == "one"


async def test_the_same_idempotency_key_undoes_once_and_answers_alike(
    world: World, shelf: Shelf, principal: Principal
) -> None:
    await shelf.write("one")
    await shelf.write("two")
    change = (await world.last(principal))["change"]
    first = await world.undo.undo(principal, change, idempotency_key="once")
    assert await world.undo.undo(principal, change, idempotency_key="once") == first
    assert await shelf.content() == "one"


async def test_a_version_that_is_not_kept_any_more_is_said_to_be_so(
    world: World, shelf: Shelf, principal: Principal
) -> None:
    await shelf.write("one")
    await shelf.write("two")
    async with world.control.begin() as tx:
        for table in ("kv_versions", "object_versions", "document_versions"):
            await tx.execute(
                text(f"delete from {table} where tenant = :t"), {"t": principal.tenant}
            )
    with pytest.raises(Conflict, match="not kept any more"):
        await world.undo_last(principal)
    assert await shelf.content() == "two"


async def test_another_tenants_change_is_none(
    world: World, shelf: Shelf, principal: Principal, stranger: Principal
) -> None:
    await shelf.write("one")
    change = (await world.last(principal))["change"]
    xid, seq = change.split(".")
    said: list[str] = []
    for which in (change, f"{xid}.{int(seq) + 10**6}"):
        with pytest.raises(NotFound) as refused:
            await world.undo.undo(stranger, which)
        said.append(str(refused.value).replace(which, "CHANGE"))
    assert said[0] == said[1]
    assert await shelf.content() == "one"


async def test_who_may_not_write_there_may_not_undo_and_who_may_not_look_finds_nothing(
    world: World, shelf: Shelf, principal: Principal
) -> None:
    await shelf.write("one")
    change = (await world.last(principal))["change"]
    reader = replace(principal, scopes=frozenset({"read", "write:kv://other/*"}))
    with pytest.raises(Forbidden, match="may not write"):
        await world.undo.undo(reader, change)
    blind = replace(principal, scopes=frozenset({"read:kv://other/*", "write:kv://other/*"}))
    with pytest.raises(NotFound):
        await world.undo.undo(blind, change)
    with pytest.raises(Forbidden):
        await world.undo.undo(replace(principal, scopes=frozenset({"read"})), change)
    writer = replace(principal, scopes=frozenset({f"write:{shelf.uri}"}))
    await world.undo.undo(writer, change)
    assert await shelf.content() is None


@pytest.mark.parametrize(
    ("uri", "verb", "instead"),
    [
        ("sql://main/t", "write", "reverse it with sql_execute"),
        ("run://run_1", "completed", "undo the changes that it made"),
        ("agent://helper", "write", "agent_save"),
        ("schedule://s", "write", "only keys, objects and documents"),
        ("kv://n/k", "lease", "only keys, objects and documents"),
    ],
)
async def test_what_has_no_earlier_versions_is_refused_with_what_to_do_instead(
    world: World, principal: Principal, uri: str, verb: str, instead: str
) -> None:
    async with world.control.begin() as tx:
        await tx.execute(
            text(
                "insert into journal (tenant, subject, verb, uri, version, prev_version)"
                " values (:t, 's', :v, :u, 2, 1)"
            ),
            {"t": principal.tenant, "v": verb, "u": uri},
        )
    change = (await world.last(principal))["change"]
    with pytest.raises(InvalidInput, match=f"cannot be undone: .*{instead}"):
        await world.undo.undo(principal, change)


@pytest.mark.parametrize("change", ["", "1", "last", "1.2.3", "-1.1"])
async def test_what_is_no_position_is_refused(
    world: World, principal: Principal, change: str
) -> None:
    with pytest.raises(InvalidInput, match=r"change: .* is no position"):
        await world.undo.undo(principal, change)
