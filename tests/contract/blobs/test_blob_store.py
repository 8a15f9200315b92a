"""What every blob store promises, held against each engine that stands beside the Protocol."""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.errors import Unavailable
from mcp_server.storage import objects
from mcp_server.storage.objects import BlobStore
from tests.contract.blobs.conftest import PLACES, Opener

MIB = 1024 * 1024


def test_every_engine_has_a_place_in_this_suite() -> None:
    engines = {module.name for module in pkgutil.iter_modules(objects.__path__)}
    assert engines == set(PLACES.values())


async def stream(chunks: Iterable[bytes]) -> AsyncGenerator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(store: BlobStore, key: str, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in store.get(key, start, end)])


async def keys(store: BlobStore) -> set[str]:
    return {blob.key async for blob in store.list()}


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    chunks=st.lists(st.binary(max_size=300), max_size=8),
    cuts=st.tuples(st.integers(0, 2400), st.integers(0, 2400)),
)
async def test_a_range_of_a_blob_is_the_slice_of_its_bytes(
    store: BlobStore, chunks: list[bytes], cuts: tuple[int, int]
) -> None:
    body = b"".join(chunks)
    start, end = sorted(min(cut, len(body)) for cut in cuts)
    blob = await store.put(stream(chunks))
    assert await read(store, blob.key, start, end) == body[start:end]
    assert await read(store, blob.key, 0, len(body)) == body
    assert blob.size == len(body)
    assert blob.sha256 == hashlib.sha256(body).hexdigest()
    assert blob.md5 == hashlib.md5(body).hexdigest()


async def test_a_blob_of_many_chunks_comes_back_in_small_ones(store: BlobStore) -> None:
    body = bytes(range(256)) * 4096 * 3 + b"end"
    blob = await store.put(stream([body[:7], body[7 : 2 * MIB], b"", body[2 * MIB :]]))
    chunks = [chunk async for chunk in store.get(blob.key, 0, len(body))]
    assert b"".join(chunks) == body
    assert 0 < min(map(len, chunks)) <= max(map(len, chunks)) <= MIB


async def test_equal_bytes_get_keys_of_their_own(store: BlobStore) -> None:
    blobs = [await store.put(stream([b"same"])) for _ in range(20)]
    assert len({blob.key for blob in blobs}) == 20


async def test_bytes_that_are_not_there_are_an_error_that_shows_no_path(
    store: BlobStore, tmp_path: Path
) -> None:
    blob = await store.put(stream([b"12345"]))
    with pytest.raises(Unavailable):
        await read(store, blob.key, 0, 6)
    with pytest.raises(Unavailable):
        await read(store, blob.key, 7, 9)
    for key in ("f" * 32, "../" + blob.key, "/etc/passwd", "..", "", "a\0b", blob.key + "\n"):
        with pytest.raises(Unavailable) as caught:
            await read(store, key, 0, 1)
        assert str(tmp_path) not in str(caught.value)
        await store.delete(key)
    assert await read(store, blob.key, 0, 5) == b"12345"


async def test_a_blob_is_hidden_until_it_is_complete(store: BlobStore) -> None:
    seen: list[set[str]] = []

    async def watched() -> AsyncGenerator[bytes]:
        for _ in range(3):
            yield b"x" * MIB
            seen.append(await keys(store))

    blob = await store.put(watched())
    assert seen == [set(), set(), set()]
    assert await keys(store) == {blob.key}


async def test_a_source_that_fails_leaves_nothing_and_its_error_arrives(store: BlobStore) -> None:
    async def broken() -> AsyncGenerator[bytes]:
        yield b"x" * MIB
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError, match="went away"):
        await store.put(broken())
    assert await keys(store) == set()
    assert await store.discard_unfinished(datetime.now(UTC) + timedelta(days=1)) == 0


async def test_a_cancelled_put_leaves_nothing(store: BlobStore) -> None:
    reached = anyio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        while True:
            yield b"x" * MIB
            reached.set()

    async with anyio.create_task_group() as group:
        group.start_soon(store.put, endless())
        await reached.wait()
        group.cancel_scope.cancel()
    assert await keys(store) == set()
    assert await store.discard_unfinished(datetime.now(UTC) + timedelta(days=1)) == 0


@pytest.mark.parametrize("moments", range(12))
async def test_a_put_cancelled_at_any_moment_is_whole_or_gone(
    store: BlobStore, moments: int
) -> None:
    stored: list[str] = []

    async def put() -> None:
        stored.append((await store.put(stream([b"y" * MIB, b"z"]))).key)

    async with anyio.create_task_group() as group:
        group.start_soon(put)
        for _ in range(moments):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert await keys(store) == set(stored)
    assert await store.discard_unfinished(datetime.now(UTC) + timedelta(days=1)) == 0


async def test_a_reader_that_has_begun_is_not_disturbed_by_a_delete(store: BlobStore) -> None:
    body = bytes(range(256)) * 4096 * 4
    blob = await store.put(stream([body]))
    async with aclosing(store.get(blob.key, 0, len(body))) as chunks:
        first = await anext(chunks)
        await store.delete(blob.key)
        rest = b"".join([chunk async for chunk in chunks])
    assert first + rest == body
    assert await keys(store) == set()
    await store.delete(blob.key)


async def test_unfinished_puts_are_told_from_dead_ones(store: BlobStore) -> None:
    discarded: list[int] = []

    async def slow() -> AsyncGenerator[bytes]:
        yield b"x" * MIB
        discarded.append(await store.discard_unfinished(datetime.now(UTC) + timedelta(days=1)))
        yield b"y"

    blob = await store.put(slow())
    assert discarded == [0]
    assert await read(store, blob.key, MIB - 1, MIB + 1) == b"xy"


async def test_a_listing_knows_when_each_blob_was_written(store: BlobStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    written = {(await store.put(stream([b"x"]))).key for _ in range(30)}
    listed = [blob async for blob in store.list()]
    assert {blob.key for blob in listed} == written
    assert all(before < blob.written_at <= datetime.now(UTC) for blob in listed)


async def test_two_openings_of_one_place_share_their_blobs(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as one, opener(tmp_path) as two:
        blob = await one.put(stream([b"shared"]))
        assert await read(two, blob.key, 0, 6) == b"shared"
        await two.delete(blob.key)
        assert await keys(one) == set()
        await one.answers()


async def test_many_at_once_keep_apart(store: BlobStore) -> None:
    async def one(number: int) -> None:
        body = f"{number} ".encode() * (number * 500 + 1)
        blob = await store.put(stream([body[:100], body[100:]]))
        assert await read(store, blob.key, 0, len(body)) == body
        if number % 2:
            await store.delete(blob.key)

    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(one, number)
    assert len(await keys(store)) == 30
