"""What puts and deletes leave behind is collected; what is needed never is, not even by a crash."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.services.objects import ObjectService, Schedule, blob_namespace, collecting
from mcp_server.services.objects.collector import collect_garbage, sweep_orphans
from mcp_server.storage.objects.file import FileStore
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.schema import objects as manifest
from tests.contract.objects.streams import stored, stream

AT_ONCE = Schedule(*[timedelta(milliseconds=5)] + [timedelta(0)] * 3)
NEVER = timedelta(days=1)
DEADLINE = 20


async def shrunk_to(count: int, blobs: FileStore) -> None:
    with anyio.fail_after(DEADLINE):
        while len(await stored(blobs)) > count:
            await anyio.sleep(0.01)


async def named(control: AsyncEngine, principal: Principal) -> set[str]:
    query = select(manifest.c.blob).where(manifest.c.tenant == principal.tenant)
    async with control.connect() as connection:
        return set((await connection.scalars(query)).all())


async def test_replaced_deleted_and_orphaned_blobs_are_collected_by_several_at_once(
    objects: ObjectService, principal: Principal, blobs: FileStore, control: AsyncEngine
) -> None:
    for turn in range(5):
        await objects.put(principal, "b", "replaced", text=f"{turn}")
    await objects.put(principal, "b", "deleted", text="x")
    await objects.delete(principal, "b", "deleted")
    await blobs.put(stream(b"a put that died before its commit"))
    assert len(await stored(blobs)) == 7
    async with collecting(control, blobs, AT_ONCE), collecting(control, blobs, AT_ONCE):
        await shrunk_to(1, blobs)
    assert await stored(blobs) == await named(control, principal)
    assert (await objects.get(principal, "b", "replaced")).get("text") == "4"


async def test_nothing_is_collected_before_its_time(
    objects: ObjectService, principal: Principal, blobs: FileStore, control: AsyncEngine
) -> None:
    await objects.put(principal, "b", "k", text="one")
    await objects.put(principal, "b", "k", text="two")
    await blobs.put(stream(b"perhaps about to be committed"))
    assert await collect_garbage(control, blobs, NEVER) == 0
    assert await sweep_orphans(control, blobs, NEVER) == 0
    assert len(await stored(blobs)) == 3
    await collect_garbage(
        control, blobs, timedelta(0)
    )  # without a sweep: what was replaced is known
    assert len(await stored(blobs)) == 2


async def test_a_reader_outlives_the_collection_of_what_it_reads(
    objects: ObjectService, principal: Principal, blobs: FileStore, control: AsyncEngine
) -> None:
    body = bytes(range(256)) * 8000
    await objects.put_stream(principal, "b", "k", stream(body))
    _, chunks = await objects.open(principal, "b", "k")
    async with aclosing(chunks):
        first = await anext(chunks)
        await objects.delete(principal, "b", "k")
        assert await collect_garbage(control, blobs, timedelta(0)) >= 1
        assert await stored(blobs) == set()
        assert first + b"".join([chunk async for chunk in chunks]) == body


async def test_a_blob_that_was_taken_for_an_orphan_and_then_committed_is_kept(
    objects: ObjectService,
    principal: Principal,
    blobs: FileStore,
    control: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = blobs.put

    async def put_then_stand_still(chunks: AsyncGenerator[bytes]) -> object:
        blob = await put(chunks)
        assert await sweep_orphans(control, blobs, timedelta(0)) == 1
        return blob

    monkeypatch.setattr(blobs, "put", put_then_stand_still)
    await objects.put(principal, "b", "k", text="late")
    await collect_garbage(control, blobs, timedelta(0))
    assert (await objects.get(principal, "b", "k")).get("text") == "late"
    monkeypatch.undo()
    await objects.put(principal, "b", "k", text="later")
    await collect_garbage(control, blobs, timedelta(0))
    assert await stored(blobs) == await named(control, principal)


async def test_a_failing_store_does_not_stop_the_collector(
    objects: ObjectService,
    principal: Principal,
    blobs: FileStore,
    control: AsyncEngine,
    folder: Path,
) -> None:
    await objects.put(principal, "b", "k", text="x")
    await objects.delete(principal, "b", "k")
    (folder / "incoming").rename(folder / "away")
    async with collecting(control, blobs, AT_ONCE):
        await anyio.sleep(0.05)  # time to fail in, if it could
        (folder / "away").rename(folder / "incoming")
        await shrunk_to(0, blobs)


async def test_each_control_database_has_a_namespace_of_its_own(control: AsyncEngine) -> None:
    name = await blob_namespace(control)
    assert name == await blob_namespace(control)
    assert name.isalnum()


class Writer:
    """A process that puts objects until it is killed, and what it has said so far."""

    def __init__(self, *arguments: object) -> None:
        script = Path(__file__).with_name("writer.py")
        self.begun: dict[str, set[str]] = {}
        self.done: dict[str, str] = {}
        self.acknowledged = 0
        self.process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )

    def kill_after(self, acknowledged: int) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.hear(line)
                if self.acknowledged >= acknowledged:
                    self.process.send_signal(signal.SIGKILL)
                    break
            for line in lines:  # what it had said before it died
                self.hear(line)
        assert self.process.wait() == -signal.SIGKILL

    def hear(self, line: str) -> None:
        if not line.endswith("\n"):
            return
        what, key, digest = line.split()
        if what == "begin":
            self.begun.setdefault(key, set()).add(digest)
        else:
            self.done[key] = digest
            self.begun[key] = {digest}
            self.acknowledged += 1


async def test_kill_9_loses_no_acknowledged_object_and_shows_no_half_one(
    objects: ObjectService,
    principal: Principal,
    blobs: FileStore,
    control: AsyncEngine,
    cluster: Cluster,
    folder: Path,
) -> None:
    expected: dict[str, set[str]] = {}
    acknowledged = 0
    for seed, count in enumerate((1, 20, 45, 70)):
        writer = Writer(cluster.control_url, folder, principal.tenant, seed)
        await anyio.to_thread.run_sync(writer.kill_after, count)
        acknowledged += writer.acknowledged
        for key, digests in writer.begun.items():
            # An unacknowledged put may have been committed or not: then the content before counts.
            old = set() if key in writer.done else expected.get(key, {"absent"})
            expected[key] = digests | old

    found: dict[str, str] = {}
    cursor = None
    while True:
        page = await objects.list(principal, "crash", cursor=cursor)
        for item in page["items"]:
            assert "key" in item
            info, chunks = await objects.open(principal, "crash", item["key"])
            body = b"".join([chunk async for chunk in chunks])
            assert hashlib.md5(body).hexdigest() == info["etag"]
            assert len(body) == info["size"]
            found[item["key"]] = hashlib.sha256(body).hexdigest()
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert acknowledged >= 136
    for key, digests in expected.items():
        assert found.pop(key, "absent") in digests, key
    assert found == {}

    await sweep_orphans(control, blobs, timedelta(0))
    await collect_garbage(control, blobs, timedelta(0))
    assert await stored(blobs) == await named(control, principal)
    assert list((folder / "incoming").iterdir()) == []
