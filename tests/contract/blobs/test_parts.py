"""Blobs of more than one part: the same bytes, whichever way they were cut, and nothing left of those that fail."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import anyio
import pytest

from mcp_server.storage.objects import BlobStore, open_blobs
from mcp_server.storage.objects.s3 import client
from tests.contract.blobs.conftest import Opener, opening
from tests.servers.s3 import S3Server

MIB = 1024 * 1024
PART = 8 * MIB
TOMORROW = timedelta(days=1)


def numbered(size: int) -> bytes:
    return b"".join(number.to_bytes(8, "big") for number in range(-(-size // 8)))[:size]


async def cut(body: bytes, size: int) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        (PART - 1, 65_536),
        (PART, PART),
        (PART, 1_000_003),
        (PART + 1, PART + 1),
        (2 * PART, 2 * PART),
        (3 * PART + 5, 3 * PART + 5),
        (3 * PART + 5, 777_777),
    ],
)
async def test_the_bytes_come_back_whichever_way_they_were_cut(
    store: BlobStore, size: int, chunk: int
) -> None:
    body = numbered(size)
    blob = await store.put(cut(body, chunk))
    assert (blob.size, blob.sha256) == (size, hashlib.sha256(body).hexdigest())
    assert blob.md5 == hashlib.md5(body).hexdigest()
    for start, end in ((0, size), (PART - 3, min(PART + 3, size)), (size - 1, size)):
        async with aclosing(store.get(blob.key, start, end)) as chunks:
            assert b"".join([piece async for piece in chunks]) == body[start:end]
    assert [listed.key async for listed in store.list()] == [blob.key]


async def test_a_long_put_is_hidden_until_its_end(store: BlobStore) -> None:
    async def watched() -> AsyncGenerator[bytes]:
        for piece in islice(iter(lambda: b"x" * MIB, None), 3 * 8 + 1):
            yield piece
        assert [blob async for blob in store.list()] == []
        # It is in progress, however long it takes.
        assert await store.discard_unfinished(datetime.now(UTC) + TOMORROW) == 0

    blob = await store.put(watched())
    assert [listed.key async for listed in store.list()] == [blob.key]


async def test_nothing_is_left_of_a_long_put_whose_source_fails(store: BlobStore) -> None:
    async def broken() -> AsyncGenerator[bytes]:
        for _ in range(20):
            yield b"x" * MIB
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError, match="went away"):
        await store.put(broken())
    assert [blob async for blob in store.list()] == []
    assert await store.discard_unfinished(datetime.now(UTC) + TOMORROW) == 0


@pytest.mark.parametrize("after", [8, 9, 16, 17, 25])
async def test_nothing_is_left_of_a_long_put_that_is_cancelled(
    store: BlobStore, after: int
) -> None:
    reached = anyio.Event()

    async def stops() -> AsyncGenerator[bytes]:
        for _ in range(after):
            yield b"x" * MIB
        reached.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(store.put, stops())
        await reached.wait()
        group.cancel_scope.cancel()
    assert [blob async for blob in store.list()] == []
    assert await store.discard_unfinished(datetime.now(UTC) + TOMORROW) == 0


async def test_a_reader_who_stops_early_harms_nobody(store: BlobStore) -> None:
    body = numbered(PART + MIB)
    blob = await store.put(cut(body, MIB))
    for _ in range(40):
        async with aclosing(store.get(blob.key, 0, len(body))) as chunks:
            first = await anext(chunks)
        assert body.startswith(first)
    assert b"".join([piece async for piece in store.get(blob.key, 0, len(body))]) == body


async def test_a_reader_that_is_cancelled_harms_nobody(store: BlobStore) -> None:
    body = numbered(PART)
    blob = await store.put(cut(body, MIB))

    async def read() -> bytes:
        return b"".join([piece async for piece in store.get(blob.key, 0, len(body))])

    for moments in range(30):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            for _ in range(moments):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    assert await read() == body


@pytest.fixture(params=["juicefs", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> S3Server:
    return request.getfixturevalue(request.param)


async def test_an_upload_that_died_is_aborted_when_nothing_moves_in_it(
    server: S3Server, tmp_path: Path
) -> None:
    where = opening(server.url("died"), tmp_path)
    async with open_blobs(where) as store:
        bare = server.client()
        upload = bare._create_multipart_upload("died", f"{where.namespace}/{'a' * 32}", {})
        bare._upload_part("died", f"{where.namespace}/{'a' * 32}", b"x" * PART, None, upload, 1)
        foreign = bare._create_multipart_upload("died", "somebody-else", {})
        now = datetime.now(UTC)
        assert await store.discard_unfinished(now - TOMORROW) == 0
        assert await store.discard_unfinished(now + TOMORROW) == 1
        assert await store.discard_unfinished(now + TOMORROW) == 0
        assert bare._list_parts("died", "somebody-else", foreign).parts == []


async def test_more_uploads_than_a_page_holds_are_all_aborted(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "UPLOADS_AT_ONCE", 10)
    where = opening(server.url("many-died"), tmp_path)
    async with open_blobs(where) as store:
        bare = server.client()
        for number in range(25):
            bare._create_multipart_upload("many-died", f"{where.namespace}/{number:032x}", {})
        assert await store.discard_unfinished(datetime.now(UTC) + TOMORROW) == 25


async def test_more_blobs_than_a_page_holds_are_all_listed(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as store:
        written: set[str] = set()

        async def some() -> None:
            for _ in range(70):
                written.add((await store.put(cut(b"x", 1))).key)

        async with anyio.create_task_group() as group:
            for _ in range(15):
                group.start_soon(some)
        assert {blob.key async for blob in store.list()} == written
        assert len(written) == 1050
