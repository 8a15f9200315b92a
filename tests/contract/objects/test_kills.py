"""kill -9 at random points of puts, copies, uploads and deletes, on every engine: all or nothing, and no orphans."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.operation import Operations
from mcp_server.services.objects import ObjectService, upload_rows
from mcp_server.services.objects.collector import collect_garbage, sweep_orphans
from mcp_server.storage.objects import BlobStore, open_blobs
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.object_tables import object_uploads, object_versions
from mcp_server.storage.sql.schema import objects as manifest
from tests.contract.objects.places import PLACES, opening, url_of
from tests.contract.objects.streams import stored
from tests.e2e.processes import LONG

ROOT = Path(__file__).parents[3]
KILLS, CHANGES = (25, 150) if LONG else (3, 20)


class Changer:
    """A process that changes objects until it is killed, and what it has said so far."""

    def __init__(self, *arguments: object) -> None:
        self.begun: dict[str, set[str]] = {}
        self.done: dict[str, str] = {}
        self.acknowledged = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.objects.changer", *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    def kill_after(self, acknowledged: int, pause: float) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.hear(line)
                if self.acknowledged >= acknowledged:
                    break
            time.sleep(pause)  # so that it dies in the middle of something else each time
            self.process.send_signal(signal.SIGKILL)
            for line in lines:
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


@pytest.fixture(params=PLACES)
def url(request: pytest.FixtureRequest) -> str | None:
    return url_of(request)


async def digest_of(service: ObjectService, who: Principal, key: str, version: int | None) -> str:
    """Return the SHA-256 of an object's bytes, which must be that of its row."""
    try:
        stat = await service.stat(who, "crash", key, version=version)
    except NotFound:
        return "absent"
    found = hashlib.sha256()
    here = manifest if stat["replaced_at"] is None else object_versions
    named = (here.c.tenant == who.tenant) & (here.c.key == key)
    async with service.stores.control.connect() as connection:
        query = select(here.c.blob).where(named, here.c.version == stat["version"])
        blob = await connection.scalar(query)
    assert blob is not None
    async for chunk in service.stores.blobs.get(blob, 0, stat["size"]):
        found.update(chunk)
    assert found.hexdigest() == stat["sha256"], key
    return found.hexdigest()


async def test_a_kill_leaves_each_change_whole_or_undone(
    operations: Operations,
    principal: Principal,
    control: AsyncEngine,
    cluster: Cluster,
    url: str | None,
    tmp_path: Path,
) -> None:
    choose = random.Random(9)
    namespace = secrets.token_hex(8)
    expected: dict[str, set[str]] = {}
    for seed in range(KILLS):
        given = (cluster.control_url, url or "", tmp_path, namespace, principal.tenant, seed)
        changer = Changer(*given)
        pause = choose.uniform(0, 0.05)
        await anyio.to_thread.run_sync(changer.kill_after, choose.randint(5, CHANGES), pause)
        for key, digests in changer.begun.items():
            # What was in doubt may have been done or not: then what was there before counts.
            old = set() if key in changer.done else expected.get(key, {"absent"})
            expected[key] = digests | old
    async with open_blobs(opening(url, tmp_path, namespace)) as blobs:
        service = ObjectService(operations, control, blobs, 7.0)
        for key, digests in expected.items():
            assert await digest_of(service, principal, key, None) in digests, key
        await collected(control, blobs)
        await every_version_is_whole(service, principal)
        await forget(control, principal)
        await collected(control, blobs)
        assert await stored(blobs) == set()


async def every_version_is_whole(service: ObjectService, who: Principal) -> None:
    query = select(object_versions.c.key, object_versions.c.version)
    async with service.stores.control.connect() as connection:
        rows = (await connection.execute(query.where(object_versions.c.tenant == who.tenant))).all()
    for row in rows[:100]:
        assert await digest_of(service, who, row.key, row.version) != "absent"


async def collected(control: AsyncEngine, blobs: BlobStore) -> None:
    await sweep_orphans(control, blobs, timedelta(seconds=-60))
    await collect_garbage(control, blobs, timedelta(0))


async def forget(control: AsyncEngine, who: Principal) -> None:
    """Delete what names blobs, as time would."""
    async with control.begin() as tx:
        for table in (manifest, object_versions):
            await tx.execute(delete(table).where(table.c.tenant == who.tenant))
        ids = select(object_uploads.c.id).where(object_uploads.c.tenant == who.tenant)
        await upload_rows.end(tx, (await tx.scalars(ids)).all())
