"""Objects on the real database and directory: contents, conditions, ranges, pages, tenants."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.services.objects import ObjectPage, ObjectService
from mcp_server.services.objects.content import MAX_INLINE_BYTES
from mcp_server.storage.objects.file import FileStore, open_file_store

HOSTILE_KEYS = [
    "",
    "/etc/passwd",
    "..",
    "../up",
    "a/../../b",
    "a/./b",
    "a//b",
    "a/",
    ".",
    "a\\b",
    "..\\up",
    "a\0b",
    "a\nb",
    "\u202etxt.exe",
    "half \ud800",
    "x" * 1025,
    "é" * 513,
]


@pytest.fixture
async def blobs(tmp_path: Any) -> AsyncIterator[FileStore]:
    async with open_file_store(tmp_path / "objects") as store:
        yield store


@pytest.fixture
def objects(operations: Operations, control: AsyncEngine, blobs: FileStore) -> ObjectService:
    return ObjectService(operations, control, blobs)


def limited(principal: Principal, *scopes: str) -> Principal:
    return replace(principal, scopes=frozenset(scopes))


async def stream(*chunks: bytes) -> AsyncGenerator[bytes]:
    for chunk in chunks:
        yield chunk


async def stored(blobs: FileStore) -> int:
    return len([blob async for blob in blobs.list()])


async def test_an_object_comes_back_as_it_was_put(
    objects: ObjectService, principal: Principal
) -> None:
    put = await objects.put(principal, "default", "notes/may.txt", text="grüß 你好\0")
    body = "grüß 你好\0".encode()
    assert put == {
        "bucket": "default",
        "key": "notes/may.txt",
        "id": put["id"],
        "size": len(body),
        "etag": hashlib.md5(body).hexdigest(),
        "content_type": "text/plain",
    }
    assert put["id"].startswith("file-")
    got = await objects.get(principal, "default", "notes/may.txt")
    assert got == {**put, "text": "grüß 你好\0"}


async def test_bytes_come_back_as_base64(objects: ObjectService, principal: Principal) -> None:
    encoded = base64.b64encode(bytes(range(256))).decode()
    put = await objects.put(principal, "default", "all.bin", base64=encoded)
    assert put["content_type"] == "application/octet-stream"
    assert (await objects.get(principal, "default", "all.bin")) == {**put, "base64": encoded}
    await objects.put(principal, "default", "empty", base64="")
    assert (await objects.get(principal, "default", "empty")).get("base64") == ""


async def test_overwriting_keeps_the_id_and_changes_the_etag(
    objects: ObjectService, principal: Principal
) -> None:
    first = await objects.put(principal, "b", "k", text="one")
    second = await objects.put(principal, "b", "k", text="two", content_type="text/x-two")
    assert second["id"] == first["id"]
    assert second["etag"] != first["etag"]
    assert (await objects.get(principal, "b", "k")) == {**second, "text": "two"}
    await objects.delete(principal, "b", "k")
    third = await objects.put(principal, "b", "k", text="three")
    assert third["id"] != first["id"]


async def test_what_is_not_there_is_not_found(objects: ObjectService, principal: Principal) -> None:
    with pytest.raises(NotFound, match="'nothing' does not exist in bucket 'default'"):
        await objects.get(principal, "default", "nothing")
    with pytest.raises(NotFound):
        await objects.open(principal, "default", "nothing")
    assert await objects.delete(principal, "default", "nothing") == {"deleted": False}
    assert await objects.list(principal, "nowhere") == {"items": [], "next_cursor": None}


async def test_a_deleted_object_is_gone(objects: ObjectService, principal: Principal) -> None:
    await objects.put(principal, "b", "k", text="x")
    assert await objects.delete(principal, "b", "k") == {"deleted": True}
    assert await objects.delete(principal, "b", "k") == {"deleted": False}
    with pytest.raises(NotFound):
        await objects.get(principal, "b", "k")


async def test_another_tenants_objects_do_not_exist(
    objects: ObjectService, principal: Principal, stranger: Principal
) -> None:
    mine = await objects.put(principal, "b", "k", text="mine")
    with pytest.raises(NotFound) as theirs:
        await objects.get(stranger, "b", "k")
    with pytest.raises(NotFound) as nobodys:
        await objects.get(stranger, "b", "x")
    assert str(theirs.value) == str(nobodys.value).replace("'x'", "'k'")
    assert await objects.list(stranger, "b") == {"items": [], "next_cursor": None}
    assert await objects.delete(stranger, "b", "k") == {"deleted": False}
    with pytest.raises(Conflict, match="there is no such object"):
        await objects.put(stranger, "b", "k", text="x", if_match="*")
    other = await objects.put(stranger, "b", "k", text="theirs", if_none_match="*")
    assert other["id"] != mine["id"]
    assert (await objects.get(principal, "b", "k")).get("text") == "mine"


async def test_conditions_guard_a_write(objects: ObjectService, principal: Principal) -> None:
    first = await objects.put(principal, "b", "k", text="one", if_none_match="*")
    with pytest.raises(Conflict, match=first["etag"]):
        await objects.put(principal, "b", "k", text="two", if_none_match="*")
    with pytest.raises(Conflict, match=first["etag"]):
        await objects.put(principal, "b", "k", text="two", if_none_match=first["etag"])
    with pytest.raises(Conflict, match=first["etag"]):
        await objects.put(principal, "b", "k", text="two", if_match="0" * 32)
    with pytest.raises(Conflict):
        await objects.put(principal, "b", "absent", text="two", if_match=first["etag"])
    assert (await objects.get(principal, "b", "k")).get("text") == "one"
    second = await objects.put(principal, "b", "k", text="two", if_match=f'"{first["etag"]}"')
    third = await objects.put(principal, "b", "k", text="3", if_none_match=first["etag"])
    await objects.put(principal, "b", "k", text="4", if_match="*")
    assert second["id"] == third["id"] == first["id"]


async def test_a_refused_write_leaves_no_bytes_and_reads_none(
    objects: ObjectService, principal: Principal, blobs: FileStore
) -> None:
    await objects.put(principal, "b", "k", text="one")
    source = stream(b"two")
    with pytest.raises(Conflict):
        await objects.put_stream(principal, "b", "k", source, if_none_match="*")
    with pytest.raises(Forbidden):
        await objects.put_stream(limited(principal, "read"), "b", "k", source)
    assert await anext(source) == b"two"
    await source.aclose()
    assert await stored(blobs) == 1


async def test_of_many_that_create_one_wins(
    objects: ObjectService, principal: Principal, blobs: FileStore
) -> None:
    won: list[str] = []

    async def create(number: int) -> None:
        try:
            await objects.put(principal, "b", "k", text=f"{number}", if_none_match="*")
        except Conflict:
            return
        won.append(f"{number}")

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(create, number)
    assert [(await objects.get(principal, "b", "k")).get("text")] == won
    assert await stored(blobs) == 1


async def test_no_update_is_lost_under_if_match(
    objects: ObjectService, principal: Principal
) -> None:
    await objects.put(principal, "b", "count", text="0")

    async def add(times: int) -> None:
        while times:
            seen = await objects.get(principal, "b", "count")
            more = f"{int(seen.get('text', '')) + 1}"
            try:
                await objects.put(principal, "b", "count", text=more, if_match=seen["etag"])
            except Conflict:
                continue
            times -= 1

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(add, 5)
    assert (await objects.get(principal, "b", "count")).get("text") == "20"


async def test_readers_among_writers_see_whole_objects(
    objects: ObjectService, principal: Principal
) -> None:
    async def write(number: int) -> None:
        for turn in range(6):
            chunk = bytes([number * 10 + turn]) * 100_000
            await objects.put_stream(principal, "b", "k", stream(chunk, chunk))
            if turn % 3 == number % 3:
                await objects.delete(principal, "b", "k")

    async def read() -> None:
        for _ in range(25):
            try:
                info, chunks = await objects.open(principal, "b", "k")
            except NotFound:
                await anyio.sleep(0.001)
                continue
            body = b"".join([chunk async for chunk in chunks])
            assert info["size"] == len(body) == 200_000
            assert info["etag"] == hashlib.md5(body).hexdigest()

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(write, number)
            group.start_soon(read)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=st.integers(0, 40), length=st.integers(1, 40))
async def test_a_range_is_inclusive_and_clipped(
    objects: ObjectService, principal: Principal, first: int, length: int
) -> None:
    body = bytes(range(200, 232))
    # Small enough to be put each time, and each time the same.
    await objects.put(principal, "b", "r", base64=base64.b64encode(body).decode())
    last = first + length - 1
    if first >= len(body):
        with pytest.raises(InvalidInput, match=r"range: .* 32 bytes"):
            await objects.get(principal, "b", "r", range=(first, last))
        return
    got = await objects.get(principal, "b", "r", range=(first, last))
    assert base64.b64decode(got.get("base64", "")) == body[first : last + 1]
    assert got["size"] == 32
    _, chunks = await objects.open(principal, "b", "r", (first, last))
    assert b"".join([chunk async for chunk in chunks]) == body[first : last + 1]


@pytest.mark.parametrize("span", [(-1, 3), (3, 2), (5, 5), (0, -1)])
async def test_a_range_that_does_not_fit_is_refused(
    objects: ObjectService, principal: Principal, span: tuple[int, int]
) -> None:
    await objects.put(principal, "b", "k", text="12345")
    await objects.put(principal, "b", "empty", text="")
    for key in ("k", "empty"):
        with pytest.raises(InvalidInput, match="range") as caught:
            await objects.get(principal, "b", key, range=span)
        assert caught.value.param == "range"


async def test_a_range_that_cuts_a_character_is_base64(
    objects: ObjectService, principal: Principal
) -> None:
    await objects.put(principal, "b", "k", text="aé")
    assert (await objects.get(principal, "b", "k", range=(0, 0))).get("text") == "a"
    assert (await objects.get(principal, "b", "k", range=(0, 1))).get("base64") == "YcM="


async def test_a_large_object_is_read_in_ranges(
    objects: ObjectService, principal: Principal
) -> None:
    await objects.put_stream(principal, "b", "big", stream(b"x" * MAX_INLINE_BYTES, b"end"))
    with pytest.raises(InvalidInput, match=rf"range \[0, {MAX_INLINE_BYTES - 1}\]"):
        await objects.get(principal, "b", "big")
    whole = await objects.get(principal, "b", "big", range=(0, MAX_INLINE_BYTES - 1))
    assert len(base64.b64decode(whole.get("base64", ""))) == MAX_INLINE_BYTES
    tail = await objects.get(principal, "b", "big", range=(MAX_INLINE_BYTES, 10**15))
    assert base64.b64decode(tail.get("base64", "")) == b"end"


@pytest.mark.parametrize("key", HOSTILE_KEYS)
async def test_a_hostile_key_is_refused_everywhere(
    objects: ObjectService, principal: Principal, blobs: FileStore, key: str
) -> None:
    for attempt in (
        objects.put(principal, "b", key, text="x"),
        objects.get(principal, "b", key),
        objects.open(principal, "b", key),
        objects.delete(principal, "b", key),
    ):
        with pytest.raises(InvalidInput, match="key") as caught:
            await attempt
        assert caught.value.param == "key"
    assert await stored(blobs) == 0


@pytest.mark.parametrize("bucket", ["", "a/b", "..", "../x", "-", "é", "a b", "x" * 129, "a\0"])
async def test_a_hostile_bucket_is_refused_everywhere(
    objects: ObjectService, principal: Principal, bucket: str
) -> None:
    for attempt in (
        objects.put(principal, bucket, "k", text="x"),
        objects.get(principal, bucket, "k"),
        objects.delete(principal, bucket, "k"),
        objects.list(principal, bucket),
    ):
        with pytest.raises(InvalidInput, match="bucket") as caught:
            await attempt
        assert caught.value.param == "bucket"


@pytest.mark.parametrize("key", ["a b", "12:30", "%2e%2e", "你好/é", "a?b#c", "…", "*", "'; --"])
async def test_odd_but_harmless_keys_are_keys(
    objects: ObjectService, principal: Principal, key: str
) -> None:
    put = await objects.put(principal, "b", key, text="x")
    assert put["key"] == key
    assert await objects.list(principal, "b", prefix=key) == {"items": [put], "next_cursor": None}


async def test_keys_that_look_alike_are_one_key(
    objects: ObjectService, principal: Principal
) -> None:
    put = await objects.put(principal, "b", "cafe\u0301", text="x")
    assert put["key"] == "caf\u00e9"
    assert (await objects.get(principal, "b", "caf\u00e9"))["id"] == put["id"]
    assert (await objects.get(principal, "b", "cafe\u0301"))["id"] == put["id"]


def folded(keys: set[str], prefix: str, delimiter: str | None) -> list[str]:
    """What a listing shows, said in Python: keys, and common prefixes marked by a leading `>`."""
    shown: dict[str, None] = {}
    for key in sorted(keys, key=str.encode):
        if key.startswith(prefix):
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            shown[f">{prefix}{head}{found}" if found else key] = None
    return list(shown)


def shown(page: ObjectPage) -> list[str]:
    return [f">{item['prefix']}" if "prefix" in item else item["key"] for item in page["items"]]


PART = st.text(
    st.sampled_from(["a", "b", "-", "é", "\ud7ff", "\U0010fffd"]), min_size=1, max_size=2
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    keys=st.sets(st.lists(PART, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8),
    prefix=st.sampled_from(["", "a", "a/", "b", "é", "a/b", "\ud7ff"]),
    delimiter=st.sampled_from([None, "/", "-", "a/"]),
    limit=st.integers(1, 4),
)
async def test_pages_hold_every_item_once_and_in_byte_order(
    objects: ObjectService,
    principal: Principal,
    keys: set[str],
    prefix: str,
    delimiter: str | None,
    limit: int,
) -> None:
    bucket = uuid.uuid4().hex
    for key in keys:
        await objects.put(principal, bucket, key, text="")
    found: list[str] = []
    cursor = None
    while True:
        page = await objects.list(
            principal, bucket, prefix=prefix, delimiter=delimiter, limit=limit, cursor=cursor
        )
        found += shown(page)
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["items"]) == limit
    assert found == folded(keys, prefix, delimiter)


async def test_a_page_shows_only_what_the_caller_may_see(
    objects: ObjectService, principal: Principal
) -> None:
    for key in ("a/1", "a/2", "b/1", "b/secret/1", "c"):
        await objects.put(principal, "b", key, text="x")
    await objects.put(principal, "other", "a/1", text="x")
    some = limited(principal, "read:object://b/a/*", "read:object://b/b/secret/*")
    assert shown(await objects.list(some, "b")) == ["a/1", "a/2", "b/secret/1"]
    assert shown(await objects.list(some, "b", delimiter="/")) == [">a/", ">b/"]
    assert shown(await objects.list(some, "b", prefix="a/2")) == ["a/2"]
    assert shown(await objects.list(some, "b", prefix="b/", delimiter="/")) == [">b/secret/"]
    for bucket, prefix in (("b", "c"), ("b", "b/1"), ("other", None)):
        with pytest.raises(Forbidden):
            await objects.list(some, bucket, prefix=prefix)
    with pytest.raises(Forbidden):
        await objects.get(some, "b", "c")
    with pytest.raises(Forbidden):
        await objects.put(some, "b", "a/1", text="y")
    with pytest.raises(Forbidden):
        await objects.delete(some, "b", "a/1")


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": 0},
        {"limit": 1001},
        {"cursor": "%"},
        {"prefix": "a\0"},
        {"delimiter": "\n"},
        {"delimiter": "\U0010ffff"},
    ],
)
async def test_arguments_of_a_listing_that_do_not_fit_are_refused(
    objects: ObjectService, principal: Principal, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match=next(iter(arguments))):
        await objects.list(principal, "b", **arguments)


async def test_every_change_is_journaled_with_its_versions(
    objects: ObjectService, principal: Principal, control: AsyncEngine
) -> None:
    await objects.put(principal, "b", "k", text="one", idempotency_key="step-1")
    await objects.put(principal, "b", "k", text="two")
    await objects.delete(principal, "b", "k")
    await objects.delete(principal, "b", "k")
    with pytest.raises(Conflict):
        await objects.put(principal, "b", "k", text="three", if_match="*")
    entries, _ = await journal.read(control, principal.tenant, None, 10)
    assert [(entry["verb"], entry["uri"], entry["step"]) for entry in entries] == [
        ("write", "object://b/k", "step-1"),
        ("write", "object://b/k", None),
        ("delete", "object://b/k", None),
    ]
    versions = [(entry["prev_version"], entry["version"]) for entry in entries]
    assert versions == [(None, 1), (1, 2), (2, None)]
