"""Existing buckets through the object service: who reaches them, what is journalled, what is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import minio
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import DEFAULT_TENANT, OWNER_SCOPES, Principal
from mcp_server.errors import (
    ConfigurationError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Unavailable,
)
from mcp_server.operation import Operations
from mcp_server.services.buckets import BucketService, RoutedObjects, refuse_shadowing
from mcp_server.services.changes import ChangeService
from mcp_server.services.undo import UndoService
from mcp_server.storage.buckets import open_buckets
from mcp_server.storage.objects.file import open_file_store
from tests.contract.buckets.conftest import write
from tests.servers.juicefs import JuiceFs
from tests.servers.s3 import S3Server

MIB = 1024 * 1024


@pytest.fixture
async def objects(
    operations: Operations, control: AsyncEngine, server: S3Server, existing: str, tmp_path: Path
) -> AsyncIterator[RoutedObjects]:
    """`theirs` may be written, `shelf` is the same bucket for reading."""
    items = [f"theirs={server.url(existing, mode='rw')}", f"shelf={server.url(existing)}"]
    async with open_file_store(tmp_path / "blobs") as blobs, open_buckets(items) as buckets:
        service = BucketService(operations, control, buckets)
        yield RoutedObjects(operations, control, blobs, 7.0, service)


@pytest.fixture
def operator() -> Principal:
    return Principal(DEFAULT_TENANT, "operator", OWNER_SCOPES)


def holding(principal: Principal, *scopes: str) -> Principal:
    return replace(principal, scopes=frozenset(scopes))


async def journal_of(control: AsyncEngine, uri: str) -> list[str]:
    query = text("select verb from journal where uri = :uri order by xid, seq")
    async with control.connect() as connection:
        return list((await connection.scalars(query, {"uri": uri})).all())


async def test_the_operator_reads_and_writes_and_others_see_it(
    objects: RoutedObjects, operator: Principal, bare: minio.Minio, existing: str
) -> None:
    write(bare, existing, "old/report.txt", b"0123456789")
    got = await objects.get(operator, "theirs", "old/report.txt", range=(2, 4))
    assert (got.get("text"), got["size"], got["content_type"]) == ("234", 10, "text/plain")
    assert got["id"] == "object://theirs/old/report.txt"
    put = await objects.put(operator, "theirs", "new.json", text="{}", metadata={"from": "here"})
    assert bare.get_object(existing, "new.json").data == b"{}"
    stat = await objects.stat(operator, "theirs", "new.json")
    assert (stat["etag"], stat["metadata"]) == (put["etag"], {"from": "here"})
    assert (stat["content_type"], stat["sha256"], stat["version"]) == ("application/json", "", 0)
    listed = await objects.list(operator, "theirs", delimiter="/")
    assert [item.get("key", item.get("prefix")) for item in listed["items"]] == ["new.json", "old/"]
    info, chunks = await objects.open(operator, "theirs", "old/report.txt", (0, 3))
    assert (info["size"], b"".join([chunk async for chunk in chunks])) == (10, b"0123")
    assert await objects.delete(operator, "theirs", "new.json") == {"deleted": True}
    with pytest.raises(NotFound):
        await objects.stat(operator, "theirs", "new.json")


async def test_a_stream_of_several_parts_passes(
    objects: RoutedObjects, operator: Principal
) -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        for number in range(20):
            yield bytes([number]) * MIB

    info = await objects.put_stream(operator, "theirs", "long", chunks())
    assert info["size"] == 20 * MIB
    got = await objects.get(operator, "theirs", "long", range=(MIB - 1, MIB))
    assert got.get("base64") == "AAE="
    with pytest.raises(InvalidInput, match="more than the 1048576 returned at once"):
        await objects.get(operator, "theirs", "long")


async def test_only_scopes_that_name_it_open_it_to_others(
    objects: RoutedObjects, principal: Principal, bare: minio.Minio, existing: str
) -> None:
    for key in ("a/1", "b/1", "c"):
        write(bare, existing, key, b"x")
    owner = principal
    for denied in (
        owner,
        holding(owner, "read", "write"),
        holding(owner, "read:object://*", "write:object://*"),
        holding(owner, "read:object://theirs-too/*"),
    ):
        with pytest.raises(Forbidden):
            await objects.get(denied, "theirs", "a/1")
        with pytest.raises(Forbidden):
            await objects.list(denied, "theirs")
        with pytest.raises(Forbidden):
            await objects.put(denied, "theirs", "a/1", text="x")
    reader = holding(owner, "read:object://theirs/a/*", "read:object://theirs/c")
    assert (await objects.get(reader, "theirs", "a/1"))["size"] == 1
    assert (await objects.get(reader, "theirs", "c"))["size"] == 1
    with pytest.raises(Forbidden):
        await objects.get(reader, "theirs", "b/1")
    with pytest.raises(Forbidden):
        await objects.delete(reader, "theirs", "a/1")
    shown = await objects.list(reader, "theirs")
    assert [item.get("key") for item in shown["items"]] == ["a/1", "c"]
    folded = await objects.list(reader, "theirs", delimiter="/")
    assert [item.get("key", item.get("prefix")) for item in folded["items"]] == ["a/", "c"]
    writer = holding(owner, "write:object://theirs/a/*")
    await objects.put(writer, "theirs", "a/2", text="x")
    with pytest.raises(Forbidden):
        await objects.put(writer, "theirs", "b/2", text="x")


async def test_a_bucket_without_mode_rw_is_only_read(
    objects: RoutedObjects, operator: Principal, bare: minio.Minio, existing: str
) -> None:
    write(bare, existing, "k", b"x")
    assert (await objects.get(operator, "shelf", "k"))["size"] == 1
    with pytest.raises(Forbidden, match="read-only here; its operator may set mode=rw"):
        await objects.put(operator, "shelf", "k", text="y")
    with pytest.raises(Forbidden, match="read-only"):
        await objects.delete(operator, "shelf", "k")
    assert bare.get_object(existing, "k").data == b"x"


async def test_conditions_hold(objects: RoutedObjects, operator: Principal) -> None:
    first = await objects.put(operator, "theirs", "k", text="1", if_none_match="*")
    with pytest.raises(Conflict):
        await objects.put(operator, "theirs", "k", text="2", if_none_match="*")
    quoted = f'"{first["etag"]}"'
    second = await objects.put(operator, "theirs", "k", text="2", if_match=quoted)
    with pytest.raises(Conflict):
        await objects.delete(operator, "theirs", "k", if_match=first["etag"])
    with pytest.raises(InvalidInput, match="S3 takes no list"):
        await objects.delete(operator, "theirs", "k", if_match="a, b")
    await objects.delete(operator, "theirs", "k", if_match=second["etag"])


async def test_writes_are_journalled_as_an_intent_and_its_outcome(
    objects: RoutedObjects, operator: Principal, control: AsyncEngine, existing: str
) -> None:
    key = f"journal/{existing}"
    await objects.put(operator, "theirs", key, text="1")
    with pytest.raises(Conflict):
        await objects.put(operator, "theirs", key, text="2", if_none_match="*")
    await objects.delete(operator, "theirs", key)
    found = await journal_of(control, f"object://theirs/{key}")
    assert found == ["intent", "write", "intent", "abort", "intent", "delete"]


async def test_changes_there_are_shown_to_those_whose_scopes_name_it(
    objects: RoutedObjects, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    changes = ChangeService(operations, control)
    await objects.put(holding(principal, "write:object://theirs/*"), "theirs", "hush/1", text="1")
    await objects.put(holding(principal, "write"), "own", "k", text="1")

    async def seen(*scopes: str) -> set[str]:
        page = await changes.list(holding(principal, *scopes))
        return {item["uri"] for item in page["items"]}

    own, theirs = "object://own/k", "object://theirs/hush/1"
    assert await seen("read") == {own}
    assert await seen("read:object://*") == {own}
    assert await seen("read", "read:object://theirs/open/*") == {own}
    assert await seen("read", "read:object://theirs/hush/*") == {own, theirs}
    assert await seen("read:object://theirs/hush/1") == {theirs}


async def test_a_repetition_with_a_key_gets_the_first_answer(
    objects: RoutedObjects, operator: Principal, bare: minio.Minio, existing: str
) -> None:
    again: Any = {"if_none_match": "*", "idempotency_key": f"once-{existing}"}
    first = await objects.put(operator, "theirs", "once", text="1", **again)
    assert await objects.put(operator, "theirs", "once", text="1", **again) == first
    assert bare.get_object(existing, "once").data == b"1"


async def test_what_needs_a_row_of_ours_is_refused(
    objects: RoutedObjects, operator: Principal, bare: minio.Minio, existing: str
) -> None:
    write(bare, existing, "k", b"x")
    calls: list[Any] = [
        objects.copy(operator, "theirs", "k", "default", "k"),
        objects.copy(operator, "default", "k", "theirs", "k"),
        objects.tag(operator, "theirs", "k", tags={"a": "b"}),
        objects.versions(operator, "theirs", "k"),
        objects.find(operator, "theirs", "k"),
        objects.get(operator, "theirs", "k", version=1),
        objects.stat(operator, "theirs", "k", version=1),
        objects.put(operator, "theirs", "k", text="x", tags={"a": "b"}),
        objects.draft_write(operator, "theirs", "k", text="x"),
        objects.draft_delete(operator, "theirs", "k"),
        objects.draft_restore(operator, "object://theirs/k", 1, 0),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="is an existing bucket of the operator's"):
            await call


async def test_a_write_there_cannot_be_undone(
    objects: RoutedObjects, operator: Principal, operations: Operations, control: AsyncEngine
) -> None:
    await objects.put(operator, "theirs", "not-undone", text="1")
    undo = UndoService(operations, control, {"object": objects})
    query = text("select xid || '.' || seq from journal where uri = 'object://theirs/not-undone'")
    async with control.connect() as connection:
        positions = (await connection.scalars(query)).all()
    assert positions
    for position in positions:
        with pytest.raises(InvalidInput):
            await undo.undo(operator, position)


@pytest.mark.parametrize("key", ["../k", "a/./b", "", "a\0b", "a\nb", "\u202ek", "x" * 1025])
async def test_bad_names_are_told(objects: RoutedObjects, operator: Principal, key: str) -> None:
    with pytest.raises(InvalidInput):
        await objects.get(operator, "theirs", key)
    with pytest.raises(InvalidInput):
        await objects.put(operator, "theirs", key, text="x")


async def test_a_cursor_of_nobody_is_told(objects: RoutedObjects, operator: Principal) -> None:
    with pytest.raises(InvalidInput):
        await objects.list(operator, "theirs", cursor="%%%")


async def test_every_other_bucket_is_the_tenants_own(
    objects: RoutedObjects, principal: Principal, bare: minio.Minio, existing: str
) -> None:
    await objects.put(principal, "mine", "k", text="1")
    assert (await objects.get(principal, "mine", "k")).get("text") == "1"
    assert list(bare.list_objects(existing, recursive=True)) == []


async def test_a_name_that_would_hide_a_tenants_bucket_stops_the_start(
    objects: RoutedObjects, principal: Principal, control: AsyncEngine
) -> None:
    name = f"hidden-{principal.tenant}"
    await refuse_shadowing(control, [name, "other"])
    await objects.put(principal, name, "k", text="1")
    with pytest.raises(ConfigurationError, match=f"bucket '{name}' of their own"):
        await refuse_shadowing(control, [name, "other"])


async def test_a_server_that_dies_is_told_and_found_again(
    operations: Operations, control: AsyncEngine, operator: Principal, tmp_path: Path
) -> None:
    with JuiceFs() as server:
        server.client().make_bucket("theirs")
        items = [f"away={server.url('theirs', mode='rw')}"]
        async with open_file_store(tmp_path / "blobs") as blobs, open_buckets(items) as buckets:
            service = BucketService(operations, control, buckets)
            objects = RoutedObjects(operations, control, blobs, 7.0, service)
            await objects.put(operator, "away", "k", text="1")
            server.kill()
            for call in (
                objects.get(operator, "away", "k"),
                objects.put(operator, "away", "k", text="2"),
                objects.list(operator, "away"),
            ):
                with pytest.raises(Unavailable) as caught:
                    await call
                assert server.endpoint not in str(caught.value)
            server.start()
            assert (await objects.get(operator, "away", "k")).get("text") == "1"
