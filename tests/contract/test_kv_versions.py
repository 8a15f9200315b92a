"""What writes to keys replaced: kept for undo, brought back by drafts, purged in time."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.services.kv import KvService
from mcp_server.services.kv.keeper import BATCH, keeping_kv, purge
from mcp_server.services.writes import Draft, carry_out


@pytest.fixture
def kv(operations: Operations, control: AsyncEngine) -> KvService:
    return KvService(operations, control, undo_days=7)


async def kept(control: AsyncEngine, principal: Principal) -> list[tuple[str, int, str]]:
    query = "select key, version, value from kv_versions where tenant = :t order by version"
    async with control.connect() as tx:
        rows = await tx.execute(text(query), {"t": principal.tenant})
        return [(row.key, row.version, row.value) for row in rows]


async def apply(
    operations: Operations, control: AsyncEngine, principal: Principal, draft: Draft
) -> dict[str, Any]:
    async with operations(principal, draft.verb, draft.uri) as op:
        return await carry_out(control, op, draft)


async def entries(control: AsyncEngine, principal: Principal) -> list[tuple[str, Any, Any]]:
    rows, _ = await journal.read(control, principal.tenant, None, 100)
    return [(row["verb"], row["version"], row["prev_version"]) for row in rows]


async def test_what_a_write_or_delete_replaces_is_kept(
    kv: KvService, control: AsyncEngine, principal: Principal
) -> None:
    first = await kv.set(principal, "default", "k", {"a": 1})
    assert await kept(control, principal) == []
    second = await kv.set(principal, "default", "k", 2)
    with pytest.raises(Conflict):
        await kv.set(principal, "default", "k", 3, expected_version=first["version"])
    with pytest.raises(Conflict):
        await kv.delete(principal, "default", "k", expected_version=first["version"])
    await kv.delete(principal, "default", "k")
    await kv.delete(principal, "default", "k")
    assert await kept(control, principal) == [
        ("k", first["version"], '{"a":1}'),
        ("k", second["version"], "2"),
    ]


async def test_without_undo_nothing_is_kept(
    operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    kv = KvService(operations, control, undo_days=0)
    await kv.set(principal, "default", "k", 1)
    await kv.set(principal, "default", "k", 2)
    await kv.delete(principal, "default", "k")
    assert await kept(control, principal) == []


async def test_an_expired_value_is_not_kept(
    kv: KvService, control: AsyncEngine, principal: Principal
) -> None:
    await kv.set(principal, "default", "k", 1, ttl_seconds=0.01)
    await expired(kv, principal, "k")
    await kv.set(principal, "default", "k", 2)
    assert await kept(control, principal) == []
    assert [prev for _, _, prev in await entries(control, principal)] == [None, None]


async def expired(kv: KvService, principal: Principal, key: str) -> None:
    with anyio.fail_after(5):
        while True:
            try:
                await kv.get(principal, "default", key)
            except NotFound:
                return
            await asyncio.sleep(0.01)


async def test_a_version_is_restored_and_the_restoring_is_a_change_too(
    kv: KvService, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    first = await kv.set(principal, "a/b", "k", {"a": [1, "\0"]}, ttl_seconds=3600)
    second = await kv.set(principal, "a/b", "k", 2)
    uri = "kv://a%2Fb/k"
    draft = await kv.draft_restore(principal, uri, first["version"], second["version"])
    assert (draft.uri, draft.verb, draft.effect) == (uri, "write", "write")
    third = await apply(operations, control, principal, draft)
    assert third == first | {"version": third["version"]}
    assert third["version"] > second["version"]
    assert await kv.get(principal, "a/b", "k") == third
    again = await kv.draft_restore(principal, uri, second["version"], third["version"])
    assert (await apply(operations, control, principal, again))["value"] == 2
    assert (await entries(control, principal))[2][1:] == (third["version"], second["version"])


async def test_a_deletion_and_a_first_write_are_undone(
    kv: KvService, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    first = await kv.set(principal, "default", "k", 1)
    await kv.delete(principal, "default", "k")
    draft = await kv.draft_restore(principal, "kv://default/k", first["version"], 0)
    back = await apply(operations, control, principal, draft)
    assert (back["value"], await kv.get(principal, "default", "k")) == (1, back)
    draft = await kv.draft_restore(principal, "kv://default/k", None, back["version"])
    assert draft.effect == "delete"
    assert await apply(operations, control, principal, draft) == {"deleted": True}
    with pytest.raises(NotFound):
        await kv.get(principal, "default", "k")
    assert [verb for verb, _, _ in await entries(control, principal)][-2:] == ["write", "delete"]


async def test_what_changed_since_is_not_restored(
    kv: KvService,
    operations: Operations,
    control: AsyncEngine,
    principal: Principal,
    stranger: Principal,
) -> None:
    first = await kv.set(principal, "default", "k", 1)
    second = await kv.set(principal, "default", "k", 2)
    third = await kv.set(principal, "default", "k", 3)
    for version in (first["version"], None):
        draft = await kv.draft_restore(principal, "kv://default/k", version, second["version"])
        with pytest.raises(Conflict, match=f"changed since, version is {third['version']}"):
            await apply(operations, control, principal, draft)
    for who, uri, version in (
        (principal, "kv://default/k", third["version"] + 1),
        (principal, "kv://default/other", first["version"]),
        (stranger, "kv://default/k", first["version"]),
    ):
        draft = await kv.draft_restore(who, uri, version, third["version"])
        with pytest.raises(Conflict, match="is not kept any more"):
            await apply(operations, control, who, draft)
    with pytest.raises(InvalidInput, match="URI of no key"):
        await kv.draft_restore(principal, "kv://default", None, 1)
    assert (await kv.get(principal, "default", "k")) == third


async def test_a_version_that_would_have_expired_is_not_restored(
    kv: KvService, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    first = await kv.set(principal, "default", "k", 1, ttl_seconds=3600)
    second = await kv.set(principal, "default", "k", 2)
    async with control.begin() as tx:
        query = "update kv_versions set expires_at = now() where tenant = :t"
        await tx.execute(text(query), {"t": principal.tenant})
    draft = await kv.draft_restore(principal, "kv://default/k", first["version"], second["version"])
    with pytest.raises(Conflict, match="would have expired by now"):
        await apply(operations, control, principal, draft)


async def test_another_process_finishes_a_recorded_write(
    kv: KvService, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    draft = await kv.draft_write(principal, "default", "k", {"ü": 1}, ttl_seconds=60)
    async with operations(principal, "write", draft.uri) as op:
        await draft.prepare(op)
    same = await kv.draft_recorded(principal, draft.uri, draft.record())
    item = await apply(operations, control, principal, same)
    assert item["value"] == {"ü": 1}
    assert item["expires_at"] is not None
    gone = await kv.draft_delete(principal, "default", "k", expected_version=item["version"])
    same = await kv.draft_recorded(principal, gone.uri, gone.record())
    assert await apply(operations, control, principal, same) == {"deleted": True}


async def test_drafts_of_one_transaction_stand_or_fall_together(
    kv: KvService, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    one = await kv.draft_write(principal, "default", "one", 1)
    two = await kv.draft_write(principal, "default", "two", 2, expected_version=9)

    async def both() -> None:
        async with (
            operations(principal, "write", one.uri) as first,
            operations(principal, "write", two.uri) as second,
            control.begin() as tx,
        ):
            await one.apply(tx, first)
            await two.apply(tx, second)

    with pytest.raises(Conflict):
        await both()
    assert (await kv.list(principal, "default"))["items"] == []
    assert await entries(control, principal) == []


async def test_writers_of_one_key_keep_each_version_once(
    kv: KvService, control: AsyncEngine, principal: Principal
) -> None:
    async def write(number: int) -> None:
        for turn in range(5):
            if (number + turn) % 4 == 0:
                await kv.delete(principal, "default", "k")
            else:
                await kv.set(principal, "default", "k", number)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(write, number)
    changes = await entries(control, principal)
    made = [version for verb, version, _ in changes if verb == "write"]
    replaced = [prev for _, _, prev in changes if prev is not None]
    current = [item["version"] for item in (await kv.list(principal, "default"))["items"]]
    assert sorted(made) == sorted(replaced + current)  # each version is replaced once, or current
    assert [version for _, version, _ in await kept(control, principal)] == sorted(replaced)


async def test_what_is_due_is_purged_in_bounded_steps(
    kv: KvService, control: AsyncEngine, principal: Principal
) -> None:
    await kv.set(principal, "default", "stays", 1)
    await kv.set(principal, "default", "stays", 2)
    await kv.set(principal, "default", "lives", 2, ttl_seconds=3600)
    async with control.begin() as tx:
        for query in (
            "insert into kv_versions (tenant, version, namespace, key, value, replaced_at)"
            " select :t, 1000000 + i, 'default', 'old', '1', now() - interval '8 days'"
            " from generate_series(1, :n) as i",
            "insert into kv (tenant, namespace, key, value, version, expires_at)"
            " select :t, 'default', 'gone' || i, '1', i, now() from generate_series(1, :n) as i",
        ):
            await tx.execute(text(query), {"t": principal.tenant, "n": BATCH + 5})
    async with control.begin() as tx:  # a row that somebody holds is left to the next round
        await tx.execute(
            text("select from kv where tenant = :t and key = 'gone1' for update"),
            {"t": principal.tenant},
        )
        assert await purge(control, 7) >= 2 * (BATCH + 5) - 1
    async with keeping_kv(control, 7, every_seconds=0.01):
        with anyio.fail_after(10):
            while await rows(control, principal) != ["lives", "stays"]:
                await asyncio.sleep(0.02)
    assert [key for key, _, _ in await kept(control, principal)] == ["stays"]
    assert (await kv.get(principal, "default", "lives"))["value"] == 2


async def rows(control: AsyncEngine, principal: Principal) -> list[str]:
    query = text("select key from kv where tenant = :t order by key")
    async with control.connect() as tx:
        return list((await tx.execute(query, {"t": principal.tenant})).scalars())
