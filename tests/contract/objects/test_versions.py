"""Versions, copies, metadata and tags: what a write replaces is kept, and the collector leaves it alone."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.services.objects import ObjectService
from mcp_server.services.objects.collector import collect_garbage, sweep_orphans
from mcp_server.services.objects.versions import purge_versions
from mcp_server.services.writes import carry_out
from mcp_server.storage.objects.file import FileStore
from mcp_server.storage.sql.object_tables import object_versions
from tests.conftest import make_tenant
from tests.contract.objects.streams import stored

DAYS = 7.0


@pytest.fixture
def keeping(operations: Operations, control: AsyncEngine, blobs: FileStore) -> ObjectService:
    """A service that keeps versions."""
    return ObjectService(operations, control, blobs, DAYS)


async def collected(control: AsyncEngine, blobs: FileStore) -> None:
    await sweep_orphans(control, blobs, timedelta(0))
    await collect_garbage(control, blobs, timedelta(0))


async def age(control: AsyncEngine, principal: Principal, days: float) -> None:
    """Let a tenant's versions be replaced so long ago."""
    older = func.now() - timedelta(days=days)
    change = update(object_versions).where(object_versions.c.tenant == principal.tenant)
    async with control.begin() as tx:
        await tx.execute(change.values(replaced_at=older))


async def test_stat_tells_what_put_does_not(keeping: ObjectService, principal: Principal) -> None:
    put = await keeping.put(
        principal, "b", "k", text="x", metadata={"Title": "Über"}, tags={"team": ""}
    )
    stat = await keeping.stat(principal, "b", "k")
    assert {name: stat[name] for name in put} == put
    assert stat["sha256"] == hashlib.sha256(b"x").hexdigest()
    assert (stat["metadata"], stat["tags"]) == ({"Title": "Über"}, {"team": ""})
    assert stat["version"] == 1
    assert stat["created_at"] == stat["updated_at"]
    assert stat["replaced_at"] is None
    with pytest.raises(NotFound):
        await keeping.stat(principal, "b", "absent")


async def test_what_is_replaced_or_deleted_can_be_read_by_its_version(
    keeping: ObjectService, principal: Principal, blobs: FileStore, control: AsyncEngine
) -> None:
    for text in ("one", "two", "three"):
        await keeping.put(principal, "b", "k", text=text)
    await keeping.delete(principal, "b", "k")
    await collected(control, blobs)
    with pytest.raises(NotFound):
        await keeping.get(principal, "b", "k")
    page = await keeping.versions(principal, "b", "k")
    assert [item["version"] for item in page["items"]] == [3, 2, 1]
    assert all(item["replaced_at"] for item in page["items"])
    for version, text in ((1, "one"), (2, "two"), (3, "three")):
        assert (await keeping.get(principal, "b", "k", version=version)).get("text") == text
    assert (await keeping.stat(principal, "b", "k", version=2))["size"] == 3
    with pytest.raises(NotFound, match="version 4"):
        await keeping.get(principal, "b", "k", version=4)


async def test_versions_come_in_pages_with_the_present_one_first(
    keeping: ObjectService, principal: Principal
) -> None:
    for turn in range(5):
        await keeping.put(principal, "b", "k", text=f"{turn}")
    seen: list[int] = []
    cursor = None
    while True:
        page = await keeping.versions(principal, "b", "k", limit=2, cursor=cursor)
        seen += [item["version"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [5, 4, 3, 2, 1]
    with pytest.raises(InvalidInput, match="cursor"):
        await keeping.versions(principal, "b", "k", cursor="bm9uZQ")
    with pytest.raises(NotFound):
        await keeping.versions(principal, "b", "absent")


async def test_versions_that_are_too_old_are_purged_and_their_blobs_collected(
    keeping: ObjectService, principal: Principal, blobs: FileStore, control: AsyncEngine
) -> None:
    for turn in range(3):
        await keeping.put(principal, "b", "k", text=f"{turn}")
    await keeping.put(principal, "b", "gone", text="x")
    await keeping.delete(principal, "b", "gone")
    await purge_versions(control, DAYS)
    await collected(control, blobs)
    assert len(await stored(blobs)) == 4
    await age(control, principal, DAYS + 1)
    assert await purge_versions(control, DAYS) >= 3
    await collected(control, blobs)
    assert len(await stored(blobs)) == 1
    assert (await keeping.get(principal, "b", "k")).get("text") == "2"
    with pytest.raises(NotFound):
        await keeping.get(principal, "b", "k", version=1)


async def test_without_undo_nothing_is_kept(objects: ObjectService, principal: Principal) -> None:
    await objects.put(principal, "b", "k", text="one")
    await objects.put(principal, "b", "k", text="two")
    page = await objects.versions(principal, "b", "k")
    assert [item["version"] for item in page["items"]] == [2]


async def test_a_copy_shares_the_bytes_and_outlives_its_source(
    objects: ObjectService, principal: Principal, blobs: FileStore, control: AsyncEngine
) -> None:
    put = await objects.put(principal, "a", "k", text="x", metadata={"m": "1"}, tags={"t": "2"})
    copied = await objects.copy(principal, "a", "k", "b", "l")
    assert (copied["bucket"], copied["key"], copied["etag"]) == ("b", "l", put["etag"])
    assert copied["id"] != put["id"]
    stat = await objects.stat(principal, "b", "l")
    assert (stat["metadata"], stat["tags"]) == ({"m": "1"}, {"t": "2"})
    assert len(await stored(blobs)) == 1
    await objects.delete(principal, "a", "k")
    await collected(control, blobs)
    assert (await objects.get(principal, "b", "l")).get("text") == "x"
    await objects.copy(principal, "b", "l", "b", "l")
    await collected(control, blobs)
    assert (await objects.get(principal, "b", "l")).get("text") == "x"
    await objects.delete(principal, "b", "l")
    await collected(control, blobs)
    assert await stored(blobs) == set()


async def test_a_copy_is_conditional_on_both_ends(
    objects: ObjectService, principal: Principal
) -> None:
    source = await objects.put(principal, "b", "from", text="x")
    await objects.put(principal, "b", "to", text="y")
    with pytest.raises(Conflict, match="the object exists"):
        await objects.copy(principal, "b", "from", "b", "to", if_none_match="*")
    with pytest.raises(Conflict, match=source["etag"]):
        await objects.copy(principal, "b", "from", "b", "to", source_if_match="0" * 32)
    with pytest.raises(Conflict):
        await objects.copy(principal, "b", "from", "b", "new", if_match="*")
    with pytest.raises(NotFound):
        await objects.copy(principal, "b", "absent", "b", "to")
    assert (await objects.get(principal, "b", "to")).get("text") == "y"
    await objects.copy(
        principal, "b", "from", "b", "to", source_if_match=source["etag"], if_match="*"
    )
    assert (await objects.get(principal, "b", "to")).get("text") == "x"


async def test_a_copy_needs_the_right_to_read_and_to_write(
    objects: ObjectService, control: AsyncEngine
) -> None:
    owner = await make_tenant(control)
    await objects.put(owner, "b", "k", text="x")
    for scopes in ({"read"}, {"write"}, {"read:object://b/*", "write:object://c/*"}):
        limited = Principal(owner.tenant, "limited", frozenset(scopes))
        with pytest.raises(Forbidden):
            await objects.copy(limited, "b", "k", "b", "l")
    await objects.copy(limited, "b", "k", "c", "l")


async def test_an_earlier_version_can_be_copied_back(
    keeping: ObjectService, principal: Principal
) -> None:
    await keeping.put(principal, "b", "k", text="good")
    await keeping.put(principal, "b", "k", text="bad")
    await keeping.copy(principal, "b", "k", "b", "k", version=1)
    assert (await keeping.get(principal, "b", "k")).get("text") == "good"
    with pytest.raises(NotFound, match="version 9"):
        await keeping.copy(principal, "b", "k", "b", "k", version=9)


async def test_copies_in_opposite_directions_do_not_wait_for_each_other(
    objects: ObjectService, principal: Principal
) -> None:
    await objects.put(principal, "b", "x", text="x")
    await objects.put(principal, "b", "y", text="y")

    async def copy(source: str, target: str) -> None:
        for _ in range(10):
            await objects.copy(principal, "b", source, "b", target)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(copy, "x", "y")
                group.start_soon(copy, "y", "x")


async def test_tags_and_metadata_are_a_new_version_of_the_same_bytes(
    keeping: ObjectService, principal: Principal, blobs: FileStore
) -> None:
    put = await keeping.put(principal, "b", "k", text="x", metadata={"a": "1"}, tags={"b": "2"})
    tagged = await keeping.tag(principal, "b", "k", tags={"c": "3"}, if_match=put["etag"])
    assert tagged == put
    stat = await keeping.stat(principal, "b", "k")
    assert (stat["metadata"], stat["tags"], stat["version"]) == ({"a": "1"}, {"c": "3"}, 2)
    await keeping.tag(principal, "b", "k", metadata={})
    assert (await keeping.stat(principal, "b", "k"))["metadata"] == {}
    assert (await keeping.stat(principal, "b", "k", version=1))["tags"] == {"b": "2"}
    assert len(await stored(blobs)) == 1
    with pytest.raises(Conflict):
        await keeping.tag(principal, "b", "k", tags={}, if_match="0" * 32)
    with pytest.raises(NotFound):
        await keeping.tag(principal, "b", "absent", tags={})


@pytest.mark.parametrize(
    "given",
    [
        {"tags": {f"{number}": "" for number in range(11)}},
        {"tags": {"n" * 129: ""}},
        {"tags": {"n": "v" * 257}},
        {"tags": {"": "v"}},
        {"tags": {"n": "a\0b"}},
        {"metadata": {"n": "half \ud800"}},
        {"metadata": {"n": "v" * 8200}},
        {"metadata": {f"{number}": "" for number in range(65)}},
    ],
)
async def test_metadata_and_tags_have_bounds(
    objects: ObjectService, principal: Principal, blobs: FileStore, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match=r"metadata|tags"):
        await objects.put(principal, "b", "k", text="x", **given)
    assert await stored(blobs) == set()


async def test_a_delete_can_be_conditional(objects: ObjectService, principal: Principal) -> None:
    put = await objects.put(principal, "b", "k", text="x")
    with pytest.raises(Conflict, match=put["etag"]):
        await objects.delete(principal, "b", "k", if_match="0" * 32)
    assert await objects.delete(principal, "b", "k", if_match=put["etag"]) == {"deleted": True}
    with pytest.raises(Conflict, match="no such object"):
        await objects.delete(principal, "b", "k", if_match=put["etag"])


async def restore(
    service: ObjectService,
    operations: Operations,
    control: AsyncEngine,
    principal: Principal,
    version: int | None,
    expected: int,
) -> dict[str, object]:
    draft = await service.draft_restore(principal, "object://b/k", version, expected)
    async with operations(principal, "write", draft.uri) as op:
        return await carry_out(control, op, draft)


async def test_an_earlier_version_is_restored_exactly_if_nothing_changed_since(
    keeping: ObjectService, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    first = await keeping.put(principal, "b", "k", text="one", tags={"t": "1"})
    await keeping.put(principal, "b", "k", text="two")
    again = (keeping, operations, control, principal)
    with pytest.raises(Conflict, match="changed since, version is 2"):
        await restore(*again, 1, 1)
    assert await restore(*again, 1, 2) == first
    stat = await keeping.stat(principal, "b", "k")
    assert (stat["tags"], stat["version"]) == ({"t": "1"}, 3)
    await keeping.delete(principal, "b", "k")
    with pytest.raises(Conflict, match="changed since, version is 0"):
        await restore(*again, 3, 3)
    assert (await restore(*again, 3, 0))["id"] == first["id"]
    assert (await keeping.get(principal, "b", "k")).get("text") == "one"
    with pytest.raises(Conflict, match="version 77 of object://b/k is not kept any more"):
        await restore(*again, 77, 4)
    assert await restore(*again, None, 4) == {"deleted": True}
    entries, _ = await journal.read(control, principal.tenant, None, 10)
    versions = [(entry["verb"], entry["prev_version"], entry["version"]) for entry in entries]
    assert versions == [
        ("write", None, 1),
        ("write", 1, 2),
        ("write", 2, 3),
        ("delete", 3, None),
        ("write", None, 4),
        ("delete", 4, None),
    ]


async def test_a_recorded_draft_can_be_finished_elsewhere(
    keeping: ObjectService, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    draft = await keeping.draft_write(principal, "b", "k", text="x", tags={"a": "b"})
    async with operations(principal, "write", draft.uri) as op:
        await draft.prepare(op)
        record = draft.record()
        assert len(record.blobs) == 1
        other = await keeping.draft_recorded(principal, draft.uri, record)
        answer = await carry_out(control, op, other)
    assert answer["key"] == "k"
    assert (await keeping.stat(principal, "b", "k"))["tags"] == {"a": "b"}
    gone = (await keeping.draft_delete(principal, "b", "k")).record()
    async with operations(principal, "write", draft.uri) as op:
        await carry_out(control, op, await keeping.draft_recorded(principal, draft.uri, gone))
    with pytest.raises(NotFound):
        await keeping.get(principal, "b", "k")


async def test_another_tenants_versions_do_not_exist(
    keeping: ObjectService, principal: Principal, stranger: Principal
) -> None:
    await keeping.put(principal, "b", "k", text="one")
    await keeping.put(principal, "b", "k", text="two")
    for attempt in (
        keeping.get(stranger, "b", "k", version=1),
        keeping.stat(stranger, "b", "k", version=2),
        keeping.versions(stranger, "b", "k"),
        keeping.copy(stranger, "b", "k", "b", "l", version=1),
    ):
        with pytest.raises(NotFound):
            await attempt


async def test_nothing_of_a_version_is_left_unnamed(
    keeping: ObjectService, principal: Principal, blobs: FileStore, control: AsyncEngine
) -> None:
    for turn in range(4):
        await keeping.put(principal, "b", "k", text=f"{turn}")
    await collected(control, blobs)
    query = select(func.count()).where(object_versions.c.tenant == principal.tenant)
    async with control.connect() as connection:
        assert await connection.scalar(query) == 3
    assert len(await stored(blobs)) == 4


async def test_a_step_that_comes_again_copies_and_tags_once(
    keeping: ObjectService, principal: Principal
) -> None:
    await keeping.put(principal, "b", "k", text="x")
    for _ in range(2):
        copied = await keeping.copy(principal, "b", "k", "b", "l", idempotency_key="copy-1")
        tagged = await keeping.tag(principal, "b", "l", tags={"a": "1"}, idempotency_key="tag-1")
        assert copied == tagged
        deleted = await keeping.delete(principal, "b", "k", idempotency_key="delete-1")
        assert deleted == {"deleted": True}
    page = await keeping.versions(principal, "b", "l")
    assert [item["tags"] for item in page["items"]] == [{"a": "1"}, {}]


async def test_writers_under_one_condition_copy_once(
    objects: ObjectService, principal: Principal
) -> None:
    await objects.put(principal, "b", "k", text="x")
    won: list[int] = []

    async def copy(number: int) -> None:
        try:
            await objects.copy(principal, "b", "k", "b", "l", if_none_match="*")
        except Conflict:
            return
        won.append(number)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(copy, number)
    assert len(won) == 1
