"""What a bucket that is not ours must do, on every server."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import minio
import pytest

from mcp_server.errors import ConfigurationError, Conflict, InvalidInput
from mcp_server.storage.buckets import Bucket, Entry, Upload, open_buckets
from tests.contract.buckets.conftest import write
from tests.servers.ports import free_ports
from tests.servers.s3 import SECRET_KEY, S3Server

MIB = 1024 * 1024


async def stream(*chunks: bytes) -> AsyncGenerator[bytes]:
    for chunk in chunks:
        yield chunk


async def put(bucket: Bucket, key: str, *chunks: bytes, **conditions: str) -> Entry:
    return await bucket.engine.put(
        key, Upload(stream(*chunks), "text/plain", {"author": "tester"}, **conditions)
    )


async def read(bucket: Bucket, key: str) -> bytes:
    entry = await bucket.engine.stat(key)
    assert entry is not None
    return b"".join([chunk async for chunk in bucket.engine.get(entry, 0, entry.size)])


async def test_what_others_stored_is_read_with_its_ranges(
    bucket: Bucket, bare: minio.Minio, existing: str
) -> None:
    write(bare, existing, "a/b c.txt", b"0123456789")
    entry = await bucket.engine.stat("a/b c.txt")
    assert entry is not None
    assert (entry.size, entry.etag) == (10, hashlib.md5(b"0123456789").hexdigest())
    assert entry.content_type == "text/plain"
    assert entry.modified is not None
    got = [chunk async for chunk in bucket.engine.get(entry, 3, 7)]
    assert b"".join(got) == b"3456"
    assert await bucket.engine.stat("a") is None
    assert await bucket.engine.stat("nothing") is None


async def test_what_is_stored_here_others_read(
    bucket: Bucket, bare: minio.Minio, existing: str
) -> None:
    entry = await put(bucket, "new.txt", b"hel", b"lo")
    found = bare.stat_object(existing, "new.txt")
    assert (found.size, found.etag, found.content_type) == (5, entry.etag, "text/plain")
    assert (await bucket.engine.stat("new.txt") or entry).metadata == {"author": "tester"}
    assert await bucket.engine.delete("new.txt", None) is True
    assert await bucket.engine.delete("new.txt", None) is False
    assert await bucket.engine.stat("new.txt") is None


async def test_a_long_object_is_there_whole_or_not_at_all(bucket: Bucket) -> None:
    await put(bucket, "long", b"before")
    reached = anyio.Event()

    async def stops() -> AsyncGenerator[bytes]:
        for _ in range(20):
            yield b"x" * MIB
        reached.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(bucket.engine.put, "long", Upload(stops(), "text/plain"))
        await reached.wait()
        assert await read(bucket, "long") == b"before"
        group.cancel_scope.cancel()
    assert await read(bucket, "long") == b"before"
    body = bytes(range(256)) * 4096 * 20
    assert (await put(bucket, "long", body)).size == len(body)
    assert await read(bucket, "long") == body


async def test_conditions_are_decided(bucket: Bucket) -> None:
    first = await put(bucket, "k", b"one", if_none_match="*")
    with pytest.raises(Conflict, match="exists"):
        await put(bucket, "k", b"two", if_none_match="*")
    with pytest.raises(Conflict, match="exists"):
        await put(bucket, "k", b"two", if_none_match=first.etag)
    with pytest.raises(Conflict, match=first.etag):
        await put(bucket, "k", b"two", if_match="0" * 32)
    with pytest.raises(Conflict, match="no such object"):
        await put(bucket, "other", b"two", if_match="*")
    second = await put(bucket, "k", b"two", if_match=first.etag)
    with pytest.raises(Conflict):
        await bucket.engine.delete("k", first.etag)
    assert await read(bucket, "k") == b"two"
    assert await bucket.engine.delete("k", second.etag) is True


async def test_of_racing_writers_one_wins_where_the_server_decides(
    bucket: Bucket, server: S3Server
) -> None:
    won: list[int] = []

    async def one(number: int) -> None:
        try:
            await put(bucket, "raced", str(number).encode(), if_none_match="*")
            won.append(number)
        except Conflict:
            pass

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(one, number)
    assert won
    if server.name == "seaweedfs":  # juicefs ignores the header: there two may win, as documented
        assert await read(bucket, "raced") == str(won[0]).encode()
        assert len(won) == 1


async def test_a_reader_never_mixes_two_contents(
    bucket: Bucket, bare: minio.Minio, existing: str
) -> None:
    write(bare, existing, "k", b"a" * 100)
    entry = await bucket.engine.stat("k")
    assert entry is not None
    write(bare, existing, "k", b"b" * 100)
    with pytest.raises(Conflict):
        async with aclosing(bucket.engine.get(entry, 0, 100)) as chunks:
            await anext(chunks)


async def test_pages_fold_and_go_on_where_the_one_before_ended(
    bucket: Bucket, bare: minio.Minio, existing: str
) -> None:
    keys = ["a-b", "a/1", "a/2", "b/1", "c", "d/e/f", "z"]
    for key in keys:
        write(bare, existing, key, b"x")
    listed: list[str] = []
    token = None
    while True:
        page = await bucket.engine.list("", None, 3, token)
        listed += [entry.key for entry in page.entries]
        token = page.token
        if token is None:
            break
    assert sorted(listed) == keys
    names: list[str] = []
    while True:
        page = await bucket.engine.list("", "/", 2, token)
        names += [*(entry.key for entry in page.entries), *page.prefixes]
        token = page.token
        if token is None:
            break
    assert sorted(names) == ["a-b", "a/", "b/", "c", "d/", "z"]
    page = await bucket.engine.list("d/", "/", 10, None)
    assert (list(page.entries), list(page.prefixes)) == ([], ["d/e/"])


async def test_a_prefix_of_the_url_is_the_bottom(
    server: S3Server, existing: str, bare: minio.Minio
) -> None:
    write(bare, existing, "inside/k", b"in")
    write(bare, existing, "outside", b"out")
    url = server.url(existing, mode="rw", prefix="inside/")
    async with open_buckets([f"part={url}"]) as buckets:
        engine = buckets["part"].engine
        page = await engine.list("", None, 10, None)
        assert [entry.key for entry in page.entries] == ["k"]
        assert await engine.stat("outside") is None
        await put(buckets["part"], "new", b"x")
    assert bare.stat_object(existing, "inside/new").size == 1


async def refused(*items: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        async with open_buckets(items):
            pass
    assert SECRET_KEY not in str(caught.value)
    return str(caught.value)


async def test_what_is_configured_wrongly_is_told(server: S3Server, existing: str) -> None:
    url = server.url(existing)
    assert "does not begin with a name" in await refused(url)
    assert "does not begin with a name" in await refused(f"a/b={url}")
    assert "'a' stands twice" in await refused(f"a={url}", f"a={url}")
    assert "has a bucket 'files' of its own" in await refused(f"files={url}")
    assert "is of no kind that this version knows" in await refused("a=gs://k:s@h/b")
    assert "a: mode='all' is neither ro nor rw" in await refused(f"a={url}&mode=all")
    assert "(NoSuchBucket)" in await refused(f"a={server.url('nowhere-at-all')}")
    wrong = url.replace(SECRET_KEY, "another")
    assert "(SignatureDoesNotMatch)" in await refused(f"a={wrong}")


async def test_a_server_that_is_away_keeps_nobody_from_starting() -> None:
    url = f"s3://k:s@127.0.0.1:{free_ports(1)[0]}/bucket?secure=false"
    async with open_buckets([f"away={url}"]) as buckets:
        assert buckets["away"].writable is False
        with pytest.raises(Exception, match="does not answer"):
            await buckets["away"].engine.stat("k")


async def test_a_token_of_nobody_is_refused_or_begins_somewhere(bucket: Bucket) -> None:
    try:
        page = await bucket.engine.list("", None, 10, "no token of anybody")
    except InvalidInput:
        return
    assert list(page.entries) == []
