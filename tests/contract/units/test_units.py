"""A unit of work is written whole or not at all, once for a key, by whoever may write all of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest
from sqlalchemy import AsyncAdaptedQueuePool, text

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Conflict, Forbidden, InvalidInput, Unavailable
from mcp_server.services.units import intent as intents
from mcp_server.storage.sql.control import POOL_SIZE
from tests.contract.units.world import World

MOST_CONNECTIONS = 2 * POOL_SIZE
INSERT = "insert into t values ($1) returning a"


def everything(number: int) -> dict[str, Any]:
    """Parts for every store; `number` tells one unit from another."""
    return {
        "rows": [{"sql": INSERT, "params": [number]}],
        "keys": [{"key": f"k{number}", "value": number}],
        "objects": [{"key": f"o{number}.txt", "text": f"text {number}"}],
        "documents": [{"store": "s", "document": f"d{number}", "text": f"words {number}"}],
    }


async def state(world: World, who: Principal, number: int) -> list[Any]:
    return [
        [number] in await world.rows(who),
        await world.value(who, f"k{number}") == number,
        await world.object(who, f"o{number}.txt") == f"text {number}",
        await world.document(who, f"d{number}") == f"words {number}",
    ]


@pytest.fixture(autouse=True)
async def table(world: World, principal: Principal) -> None:
    await world.sql.execute(principal, "create table t (a int unique)")


async def test_everything_is_written_and_answers_as_its_own_tools_do(
    world: World, principal: Principal
) -> None:
    before = len(await world.journal(principal))
    done = await world.units.write_together(principal, **everything(1))
    assert await state(world, principal, 1) == [True] * 4
    assert done["rows"][0]["rows"] == [[1]]
    assert done["keys"] == [
        {
            "key": "k1",
            "namespace": "default",
            "version": done["keys"][0]["version"],
            "expires_at": None,
        }
    ]
    assert (done["objects"][0]["key"], done["objects"][0]["size"]) == ("o1.txt", 6)
    assert done["documents"] == [{"store": "s", "document": "d1", "chunks": 1}]
    assert sorted((await world.journal(principal))[before:]) == [
        ("write", "kv://default/k1"),
        ("write", "object://default/o1.txt"),
        ("write", "sql://main/t"),
        ("write", "vector://s/d1"),
    ]
    assert await world.pending() == 0


async def test_without_rows_it_is_one_transaction(world: World, principal: Principal) -> None:
    parts = everything(1)
    del parts["rows"]
    await world.units.write_together(principal, **parts)
    assert await state(world, principal, 1) == [False, True, True, True]
    query = text(
        "select count(distinct xmin::text) from journal"
        " where tenant = :t and not starts_with(uri, 'sql:')"
    )
    async with world.control.connect() as connection:
        assert await connection.scalar(query, {"t": principal.tenant}) == 1


async def test_what_is_there_is_deleted_and_overwritten(world: World, principal: Principal) -> None:
    await world.units.write_together(principal, **everything(1))
    done = await world.units.write_together(
        principal,
        rows=[{"sql": "delete from t"}, {"sql": INSERT, "params": [2]}],
        keys=[{"key": "k1", "delete": True}, {"key": "absent", "delete": True}],
        objects=[{"key": "o1.txt", "text": "new"}],
        documents=[{"store": "s", "document": "d1", "delete": True}],
    )
    assert await world.rows(principal) == [[2]]
    assert done["keys"] == [{"deleted": True}, {"deleted": False}]
    assert done["documents"] == [{"deleted": 1}]
    assert [item["row_count"] for item in done["rows"]] == [1, 1]
    assert await world.value(principal, "k1") is None
    assert await world.object(principal, "o1.txt") == "new"
    assert await world.document(principal, "d1") is None


FAILURES: dict[str, tuple[dict[str, Any], type[AppError], str]] = {
    "a statement": (
        {"rows": [{"sql": INSERT, "params": [5]}, {"sql": "insert into t values (0)"}]},
        Conflict,
        r"rows\[2\]: ",
    ),
    "a parameter": ({"rows": [{"sql": INSERT, "params": ["x"]}]}, InvalidInput, r"rows\[1\]: "),
    "a statement that is not on offer": (
        {"rows": [{"sql": "copy t to '/tmp/x'"}]},
        Forbidden,
        r"rows\[1\]: ",
    ),
    "a key's condition": (
        {"keys": [{"key": "k", "value": 1}, {"key": "there", "value": 1, "expected_version": 99}]},
        Conflict,
        r"keys\[2\]: version is ",
    ),
    "an object's condition": (
        {"objects": [{"key": "there", "text": "x", "if_none_match": "*"}]},
        Conflict,
        r"objects\[1\]: ",
    ),
    "a document": (
        {"documents": [{"store": "s", "document": "d", "text": " "}]},
        InvalidInput,
        r"documents\[1\]: text: ",
    ),
    "two of one name": (
        {"keys": [{"key": "k", "value": 1}, {"key": "k", "delete": True}]},
        InvalidInput,
        "is given 2 times",
    ),
    "no content": ({"keys": [{"key": "k"}]}, InvalidInput, r"keys\[1\]: value: give it, or delete"),
    "content and delete": (
        {"objects": [{"key": "k", "text": "x", "delete": True}]},
        InvalidInput,
        r"objects\[1\]: text: it does not go with delete",
    ),
    "a cache": (
        {"keys": [{"key": "k", "value": 1, "namespace": "cache/x"}]},
        InvalidInput,
        "may be lost",
    ),
    "too many": (
        {"keys": [{"key": f"k{number}", "value": 1} for number in range(101)]},
        InvalidInput,
        "102 are more than the 100",
    ),
    "nothing": ({}, InvalidInput, "give at least one"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_one_part_that_fails_leaves_nothing_of_the_others(
    world: World, principal: Principal, case: str
) -> None:
    await world.stores.kv.set(principal, "default", "there", 0)
    await world.stores.objects.put(principal, "default", "there", text="old")
    await world.sql.execute(principal, "insert into t values (0)")
    change, error, message = FAILURES[case]
    parts: dict[str, Any] = everything(1) if change else {}
    for section, items in change.items():
        parts[section] = [*parts[section], *items]
    before = await world.journal(principal), [b async for b in world.blobs.list()]
    with pytest.raises(error, match=message):
        await world.units.write_together(principal, **parts)
    assert await state(world, principal, 1) == [False] * 4
    assert (await world.journal(principal), [b async for b in world.blobs.list()]) == before
    assert await world.rows(principal) == [[0]]
    assert await world.pending() == 0


@pytest.mark.parametrize("missing", ["sql://main/t", "kv://", "object://", "vector://"])
async def test_who_may_not_write_a_part_writes_nothing(
    world: World, principal: Principal, missing: str
) -> None:
    prefixes = ["sql://main/t", "kv://", "object://", "vector://"]
    some = frozenset(f"write:{item}*" for item in prefixes if item != missing) | {"read"}
    with pytest.raises(Forbidden):
        await world.units.write_together(replace(principal, scopes=some), **everything(1))
    assert await state(world, principal, 1) == [False] * 4
    assert [blob async for blob in world.blobs.list()] == []


async def test_another_tenant_sees_nothing_of_it(
    world: World, principal: Principal, stranger: Principal
) -> None:
    await world.sql.execute(stranger, "create table t (a int)")
    await world.units.write_together(principal, **everything(1))
    assert await state(world, stranger, 1) == [False] * 4


async def test_a_key_does_it_once_also_at_once(world: World, principal: Principal) -> None:
    calls = [
        world.units.write_together(principal, **everything(1), idempotency_key="once")
        for _ in range(4)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    done = [item for item in answers if not isinstance(item, BaseException)]
    assert done
    assert all(item == done[0] for item in done)
    again = await world.units.write_together(principal, **everything(1), idempotency_key="once")
    assert again == done[0]
    assert await world.rows(principal) == [[1]]
    assert (
        len([item for item in await world.journal(principal) if item[1] == "kv://default/k1"]) == 1
    )
    assert len([blob async for blob in world.blobs.list()]) == 1


async def test_many_at_once_on_the_same_things_neither_deadlock_nor_mix(
    world: World, principal: Principal
) -> None:
    async def one(number: int) -> None:
        turned: list[Any] = [{"key": f"shared{index}", "value": number} for index in range(5)]
        if number % 2:
            turned.reverse()
        await world.units.write_together(
            principal,
            rows=[{"sql": INSERT, "params": [number]}],
            keys=turned,
            objects=[{"key": "shared", "text": str(number)}],
        )

    async with asyncio.timeout(60):
        await asyncio.gather(*(one(number) for number in range(24)))
    values = {await world.value(principal, f"shared{index}") for index in range(5)}
    assert len(values) == 1
    assert await world.object(principal, "shared") == str(values.pop())
    assert len(await world.rows(principal)) == 24


async def test_while_a_unit_is_unsettled_nobody_else_writes_what_it_will(
    world: World, principal: Principal
) -> None:
    await world.stores.kv.set(principal, "default", "k", 1)
    async with world.control.begin() as tx:
        at = {"t": principal.tenant}
        await tx.execute(text("insert into units (id, tenant, content) values ('u', :t, '{}')"), at)
        await tx.execute(text("insert into unit_holds values (:t, 'kv://default/k', 'u')"), at)
    with pytest.raises(Unavailable, match="is being finished; try again"):
        await world.stores.kv.set(principal, "default", "k", 2)
    await world.stores.kv.set(principal, "default", "other", 2)
    with pytest.raises(Unavailable, match="is being finished"):
        await world.stores.kv.delete(principal, "default", "k")
    assert await world.value(principal, "k") == 1
    async with world.control.begin() as tx:
        await tx.execute(text("delete from units where id = 'u'"))
    await world.stores.kv.set(principal, "default", "k", 2)


async def test_a_unit_ends_though_all_who_wait_for_its_key_hold_a_connection_each(
    world: World, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its locks, and they have every other connection that there is."""
    writers: list[asyncio.Task[Any]] = []
    changed_by = intents.changed_by
    pool = cast("AsyncAdaptedQueuePool", world.control.pool)

    async def crowded(*arguments: Any) -> set[str]:
        for value in range(2 * MOST_CONNECTIONS):
            write = world.stores.kv.set(principal, "default", "k1", f"later {value}")
            writers.append(asyncio.create_task(write))
        async with asyncio.timeout(20):
            while pool.checkedout() < MOST_CONNECTIONS:
                await asyncio.sleep(0.01)
        return await changed_by(*arguments)

    monkeypatch.setattr(intents, "changed_by", crowded)
    done = await world.units.write_together(principal, **everything(1))
    versions = [(await write)["version"] for write in writers]
    assert min(versions) > done["keys"][0]["version"]
    assert (await state(world, principal, 1))[2:] == [True, True]
