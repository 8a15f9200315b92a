"""kill -9 at random moments of puts: each object is one that was written, whole, and nothing is left once it is collected."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.objects import ObjectService
from mcp_server.services.objects.collector import collect_garbage, sweep_orphans
from mcp_server.storage.objects import open_blobs
from mcp_server.storage.objects.file import open_file_store
from mcp_server.storage.sql.embedded import Cluster
from tests.contract.blobs.conftest import opening

ROOT = Path(__file__).parents[3]
LONG = os.environ.get("TEST_LENGTH") == "long"
KILLS = 20 if LONG else 2
NOW = timedelta(0)


def killed(arguments: list[str], seconds: float) -> list[list[str]]:
    """Run the writers, kill them some seconds after their first word, and return what they said."""
    command = [sys.executable, "-m", "tests.contract.blobs.crashing", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    lines += process.stdout.readlines()
    timer.join()
    _, errors = process.communicate()
    assert process.returncode == -9, errors
    return [line.split() for line in lines if line.count(" ") == 2 and line.endswith("\n")]


@pytest.mark.timeout(900 if LONG else 240)
async def test_a_killed_writer_leaves_whole_objects_and_in_the_end_no_orphans(
    url: str | None,
    tmp_path: Path,
    cluster: Cluster,
    control: AsyncEngine,
    operations: Operations,
    principal: Principal,
) -> None:
    # Where a blob is in flight at the kill, each key may hold what was begun or what was there.
    choose = random.Random(20261122)
    begun: dict[str, set[str]] = {}
    for seed in range(KILLS):
        said = killed(
            [cluster.control_url, url or "", str(tmp_path), principal.tenant, str(seed)],
            choose.uniform(0.2, 2.0),
        )
        for word, key, digest in said:
            if word == "begin":
                begun.setdefault(key, set()).add(digest)
            else:
                begun[key] = {digest}
    async with open_blobs(opening(url, tmp_path)) as store:
        objects = ObjectService(operations, control, store)
        listed = (await objects.list(principal, "crash", limit=1000))["items"]
        for item in listed:
            key = str(item.get("key"))
            info, chunks = await objects.open(principal, "crash", key)
            async with aclosing(chunks):
                body = b"".join([chunk async for chunk in chunks])
            assert len(body) == info["size"]
            assert hashlib.sha256(body).hexdigest() in begun[key], key
        assert listed
        query = text("select blob from objects where tenant = :tenant")
        async with control.connect() as connection:
            named = set((await connection.scalars(query, {"tenant": principal.tenant})).all())
        stored = {blob.key async for blob in store.list()}
        assert named <= stored
        # Every blob that is older than this moment, and every upload in which nothing moves any more.
        time.sleep(1.1)  # noqa: ASYNC251 - a server's clock may count whole seconds
        await sweep_orphans(control, store, NOW)
        await collect_garbage(control, store, NOW)
        assert {blob.key async for blob in store.list()} == named
        assert await store.discard_unfinished(datetime.now(UTC) + timedelta(days=1)) == 0
        async with control.connect() as connection:
            garbage = "select count(*) from garbage_blobs where blob = any(:blobs)"
            left = await connection.scalar(text(garbage), {"blobs": sorted(stored)})
        assert left == 0


async def test_remains_that_another_process_removes_at_this_moment_stop_no_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_file_store(tmp_path) as store:
        for number in range(3):
            (tmp_path / "incoming" / f"{number:032x}").write_bytes(b"of a put that died")

        def removed(name: str, directory: int) -> bool:
            os.unlink(name, dir_fd=directory)
            return False

        with monkeypatch.context() as faster:
            faster.setattr("mcp_server.storage.objects.file.store.is_locked", removed)
            tomorrow = datetime.now(UTC) + timedelta(days=1)
            assert await store.discard_unfinished(tomorrow) == 0
        assert await store.discard_unfinished(tomorrow) == 0
