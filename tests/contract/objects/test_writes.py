"""Conditions, races and the journal: what a write needs and what it leaves."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import anyio
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, NotFound
from mcp_server.services.objects import ObjectService
from mcp_server.storage.objects.file import FileStore
from tests.contract.objects.streams import stored, stream


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
        await objects.put_stream(replace(principal, scopes=frozenset({"read"})), "b", "k", source)
    assert await anext(source) == b"two"
    await source.aclose()
    assert len(await stored(blobs)) == 1


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
    assert len(await stored(blobs)) == 1


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
