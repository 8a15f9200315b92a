"""An S3 server that dies, stands still or changes its secret: a clear error, nothing half visible, and no restart of ours."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from mcp_server.errors import Unavailable
from mcp_server.storage.objects import BlobStore, open_blobs
from tests.contract.blobs.conftest import opening
from tests.servers.juicefs import JuiceFs
from tests.servers.s3 import S3Server
from tests.servers.seaweedfs import SeaweedFs

MIB = 1024 * 1024
TOMORROW = timedelta(days=1)
LONG = os.environ.get("TEST_LENGTH") == "long"
# SeaweedFS takes a quarter of a minute to come back.
SERVERS: tuple[type[S3Server], ...] = (JuiceFs, SeaweedFs) if LONG else (JuiceFs,)


@pytest.fixture(params=SERVERS, ids=lambda server: server.name)
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """One of the test's own, that may be killed."""
    with request.param() as server:
        yield server


@pytest.fixture
async def store(server: S3Server, tmp_path: Path) -> AsyncIterator[BlobStore]:
    async with open_blobs(opening(server.url("blobs"), tmp_path)) as store:
        yield store


async def body(mib: int) -> AsyncGenerator[bytes]:
    for number in range(mib):
        yield bytes([number % 251]) * MIB


def whole(mib: int) -> bytes:
    return b"".join(bytes([number % 251]) * MIB for number in range(mib))


async def read(store: BlobStore, key: str, size: int) -> bytes:
    return b"".join([chunk async for chunk in store.get(key, 0, size)])


async def keys(store: BlobStore) -> set[str]:
    return {blob.key async for blob in store.list()}


async def refused(call: Callable[[], Awaitable[object]], server: S3Server) -> str:
    with pytest.raises(Unavailable) as caught:
        await call()
    assert server.endpoint not in str(caught.value)
    assert server.secret_key not in str(caught.value)
    return str(caught.value)


async def test_every_method_says_that_the_server_is_away_and_finds_it_again(
    server: S3Server, store: BlobStore
) -> None:
    blob = await store.put(body(1))
    server.kill()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.put(body(1)),
        lambda: store.put(body(20)),
        lambda: read(store, blob.key, MIB),
        lambda: keys(store),
        lambda: store.delete(blob.key),
        lambda: store.discard_unfinished(datetime.now(UTC)),
        store.answers,
    ]
    for call in calls:
        begun = time.monotonic()
        assert await refused(call, server) == "unavailable: the object store does not answer"
        assert time.monotonic() - begun < 20
    server.start()
    await store.answers()
    assert await read(store, blob.key, MIB) == whole(1)
    assert await keys(store) == {blob.key}
    assert len({blob.key, (await store.put(body(9))).key} & await keys(store)) == 2


async def test_a_server_killed_in_the_middle_of_a_put_shows_nothing_of_it(
    server: S3Server, store: BlobStore
) -> None:
    async def interrupted() -> AsyncGenerator[bytes]:
        async for chunk in body(20):
            yield chunk
        server.kill()
        yield b"x" * (9 * MIB)

    await refused(lambda: store.put(interrupted()), server)
    server.start()
    assert await keys(store) == set()
    assert await store.discard_unfinished(datetime.now(UTC) + TOMORROW) <= 1
    assert await store.discard_unfinished(datetime.now(UTC) + TOMORROW) == 0


async def test_a_server_killed_before_a_puts_last_word_shows_all_or_nothing(
    server: S3Server, store: BlobStore
) -> None:
    async def interrupted() -> AsyncGenerator[bytes]:
        async for chunk in body(16):
            yield chunk
        server.kill()

    await refused(lambda: store.put(interrupted()), server)
    server.start()
    for key in await keys(store):
        assert await read(store, key, 16 * MIB) == whole(16)


async def test_a_reader_goes_on_when_the_server_is_back_at_once(
    server: S3Server, store: BlobStore
) -> None:
    blob = await store.put(body(40))
    async with aclosing(store.get(blob.key, 0, blob.size)) as chunks:
        got = [await anext(chunks)]
        server.kill()
        server.start()
        got += [chunk async for chunk in chunks]
    assert b"".join(got) == whole(40)


async def test_a_reader_is_told_when_the_server_stays_away(
    server: S3Server, store: BlobStore
) -> None:
    blob = await store.put(body(40))
    got = bytearray()

    async def rest() -> None:
        async with aclosing(store.get(blob.key, 0, blob.size)) as chunks:
            got.extend(await anext(chunks))
            server.kill()
            async for chunk in chunks:
                got.extend(chunk)

    await refused(rest, server)
    assert whole(40).startswith(bytes(got))
    assert len(got) < blob.size


async def test_a_deadline_holds_while_the_server_stands_still(
    server: S3Server, store: BlobStore
) -> None:
    blob = await store.put(body(20))
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.put(body(20)),
        lambda: read(store, blob.key, blob.size),
        *([lambda: store.put(body(1)), store.answers] if LONG else []),
    ]
    for call in calls:
        server.stand_still()
        try:
            begun = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await call()
            # A thread that waits for an answer cannot be stopped; three seconds are given to it.
            assert time.monotonic() - begun < 10
        finally:
            server.go_on()
        # What was on its way when it was given up may arrive, and is removed then.
        async with asyncio.timeout(60):
            while await keys(store) != {blob.key}:
                await anyio.sleep(0.1)
    assert await read(store, blob.key, blob.size) == whole(20)


async def test_closing_does_not_wait_for_a_server_that_stands_still(
    server: S3Server, tmp_path: Path
) -> None:
    begun = 0.0
    try:
        async with open_blobs(opening(server.url("blobs"), tmp_path)) as store:
            server.stand_still()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await store.put(body(20))
            begun = time.monotonic()
        assert time.monotonic() - begun < 20
    finally:
        server.go_on()


async def test_a_secret_that_is_changed_later_is_told_and_the_old_one_works_again(
    server: S3Server, store: BlobStore
) -> None:
    blob = await store.put(body(1))
    server.kill()
    with JuiceFs.instead_of(server):
        said = await refused(lambda: store.put(body(1)), server)
        assert said == "unavailable: the object store refuses this server: its secret is wrong"
        await refused(lambda: read(store, blob.key, MIB), server)
    server.start()
    assert await read(store, blob.key, MIB) == whole(1)
