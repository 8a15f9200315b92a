"""Objects go in and come out: contents, ranges, deletion, tenants."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, InvalidInput, NotFound
from mcp_server.services.objects import ObjectService
from mcp_server.services.objects.content import MAX_INLINE_BYTES
from tests.contract.objects.streams import stream


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


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
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
