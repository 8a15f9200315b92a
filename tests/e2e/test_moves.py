"""Export and import: everything at one moment, between any engines, through kills, or a clear refusal."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import tomllib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.doors import raw
from tests.e2e.belongings import call, fill, holds_everything, isthmus, make_key
from tests.e2e.processes import LONG, ServeProcess, environment
from tests.e2e.topology import BUCKET, ROOT
from tests.servers.juicefs import JuiceFs
from tests.servers.milvus import MilvusLite
from tests.servers.postgresql import PostgresqlServer

DEATHS = 20 if LONG else 3


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@asynccontextmanager
async def serving(data_dir: Path, **settings: str) -> AsyncGenerator[ServeProcess]:
    server = ServeProcess(data_dir, 0, **settings)
    try:
        await asyncio.to_thread(server.wait_ready)
        yield server
    finally:
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def servers(scratch: Path) -> AsyncGenerator[dict[str, str]]:
    """Yield the settings of a deployment on engines of their own."""
    folder = scratch / f"engines-{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o755)
    secrets = folder / "secrets"
    script = ["sh", str(ROOT / "deploy" / "secrets.sh"), str(secrets)]
    subprocess.run(script, check=True, capture_output=True)  # noqa: ASYNC221
    postgres = PostgresqlServer(folder / "postgres", secrets)
    written = tomllib.loads((secrets / "isthmus.toml").read_text())
    await postgres.set_up()
    try:
        with JuiceFs() as s3, MilvusLite() as milvus:
            yield {
                name: written[name.lower()].replace("postgres:5432", f"127.0.0.1:{postgres.port}")
                for name in ("DATABASE_URL", "DATA_URL")
            } | {"OBJECTS_URL": s3.url(BUCKET), "VECTORS_URL": milvus.url}
    finally:
        postgres.kill()


async def moved(data_dir: Path, verb: str, archive: Path, **settings: str) -> dict[str, Any]:
    done = await asyncio.to_thread(isthmus, data_dir, verb, str(archive), "--json", **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    # Its progress; nothing was left to do if the one before was killed after its last word.
    assert not done.stderr or f"{verb}: " in done.stderr, done.stderr
    return json.loads(done.stdout)


async def test_a_deployment_moves_to_servers_and_back_without_whom_it_erased(
    data_dir: Path, scratch: Path, http: aiohttp.ClientSession
) -> None:
    keys = {tenant: make_key(data_dir, tenant) for tenant in ("one", "two")}
    async with serving(data_dir) as server:
        for key in keys.values():
            await fill(http, server, key)
    first, second = scratch / uuid.uuid4().hex, scratch / uuid.uuid4().hex
    told = await moved(data_dir, "export", first)
    assert told["tenants"] == 3
    elsewhere, home = (
        data_dir.with_name("elsewhere-" + data_dir.name),
        data_dir.with_name("home-" + data_dir.name),
    )
    async with servers(scratch) as settings:
        read = await moved(elsewhere, "import", first, **settings)
        assert read["rows"] == told["rows"]
        async with serving(elsewhere, **settings) as server:
            for key in keys.values():
                await holds_everything(http, server, key)
            # What was overwritten before the move can be brought back after it.
            items = (await call(http, server, keys["one"], "changes", limit=1000))["items"]
            change = [item for item in items if item["uri"] == "object://b/text"][-1]["change"]
            await call(http, server, keys["one"], "undo", change=change)
            found = await call(http, server, keys["one"], "object_get", bucket="b", key="text")
            assert found["text"] == "body 1" * 100
            await call(
                http, server, keys["one"], "object_put", bucket="b", key="text", text="body 2" * 100
            )
        erase = ("tenants", "delete", "two", "--yes", "--json")
        erased = await asyncio.to_thread(isthmus, elsewhere, *erase, **settings)
        assert (erased.returncode, json.loads(erased.stdout)["left"]) == (0, {}), erased.stderr
        assert (await moved(elsewhere, "export", second, **settings))["tenants"] == 2
    await moved(home, "import", second)
    async with serving(home) as server:
        await holds_everything(http, server, keys["one"])
        assert (await raw.call(http, server.url, keys["two"], "kv_list", {})).status == 401


async def test_an_export_is_of_one_moment_while_everybody_writes(
    data_dir: Path, scratch: Path, http: aiohttp.ClientSession
) -> None:
    key = make_key(data_dir, "busy")
    archive, home = scratch / uuid.uuid4().hex, data_dir.with_name("home-" + data_dir.name)
    stop = asyncio.Event()

    async def write(server: ServeProcess, number: int) -> int:
        """Write a row and a key together, again and again."""
        count = 0
        while not stop.is_set():
            count += 1
            rows = [{"sql": "insert into pairs values ($1, $2)", "params": [number, count]}]
            keys = [{"key": f"pair-{number}", "value": count}]
            await call(http, server, key, "write_together", rows=rows, keys=keys)
        return count

    async with serving(data_dir) as server:
        await call(http, server, key, "sql_execute", sql="create table pairs (w int, n int)")
        writers = [asyncio.create_task(write(server, number)) for number in range(3)]
        await asyncio.sleep(1)
        await moved(data_dir, "export", archive)
        stop.set()
        counts = await asyncio.gather(*writers)
    await moved(home, "import", archive)
    async with serving(home) as server:
        query = "select w, count(*), max(n) from pairs group by w order by w"
        rows = (await call(http, server, key, "sql_query", sql=query))["rows"]
        assert [row[0] for row in rows] == [0, 1, 2]
        for number, count, last in rows:
            value = (await call(http, server, key, "kv_get", key=f"pair-{number}"))["value"]
            assert count == last == value
            assert 0 < value <= counts[number]


@pytest.mark.parametrize("verb", ["export", "import"])
async def test_a_move_that_is_killed_is_ended_by_the_next_one(
    verb: str, data_dir: Path, scratch: Path, http: aiohttp.ClientSession
) -> None:
    key = make_key(data_dir, "mine")
    archive, home = scratch / uuid.uuid4().hex, data_dir.with_name("home-" + data_dir.name)
    async with serving(data_dir) as server:
        await fill(http, server, key)
    if verb == "import":
        await moved(data_dir, "export", archive)
    begun = {"export": data_dir, "import": home}[verb]
    for _ in range(DEATHS):
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "mcp_server", verb, str(archive)],
            env=environment(begun),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await asyncio.sleep(random.uniform(1.5, 5.0))
        process.kill()
        process.wait()
    if verb == "import":
        there = await asyncio.to_thread(isthmus, home, "import", str(archive))
        assert there.returncode == 0 or "holds data already" in there.stderr, there.stderr
    else:
        await moved(data_dir, "export", archive)
        await moved(home, "import", archive)
    async with serving(home) as server:
        await holds_everything(http, server, key)
        listed = await raw.call(http, server.url, key, "kv_list", {})
        assert [item["key"] for item in listed.result["structuredContent"]["items"]] == ["kept"]


async def forgeries(home: Path, archive: Path) -> list[subprocess.CompletedProcess[str]]:
    """Import the archive with a manifest that says more than columns, and with a row of a foreign blob."""
    manifest = archive / "manifest.json"
    true = manifest.read_text()
    forged = json.loads(true)
    forged["parts"]["control/kv.copy"]["columns"][0] = 'tenant" drop not null, add x int default (1'
    manifest.write_text(json.dumps(forged))
    columns = await asyncio.to_thread(isthmus, home, "import", str(archive))
    assert (columns.returncode, "names columns" in columns.stderr) == (2, True), columns.stderr
    rows = archive / "parts" / "control" / "objects.copy"
    before = rows.read_bytes()
    lines = (archive / "parts" / "blobs.jsonl").read_text().splitlines()
    known = next(
        key for key in (json.loads(line)["key"] for line in lines) if key.encode() in before
    )
    rows.write_bytes(before.replace(known.encode(), b"0" * 32))
    assert rows.read_bytes() != before
    forged = json.loads(true)
    forged["parts"]["control/objects.copy"]["sha256"] = hashlib.sha256(
        rows.read_bytes()
    ).hexdigest()
    manifest.write_text(json.dumps(forged))
    blobs = await asyncio.to_thread(isthmus, home, "import", str(archive))
    assert (blobs.returncode, "not in the archive" in blobs.stderr) == (2, True), blobs.stderr
    rows.write_bytes(before)
    manifest.write_text(true)
    return [columns, blobs]


async def test_a_damaged_archive_and_a_deployment_in_use_are_refused(
    data_dir: Path, scratch: Path, http: aiohttp.ClientSession
) -> None:
    archive, home = scratch / uuid.uuid4().hex, data_dir.with_name("home-" + data_dir.name)
    key = make_key(data_dir, "mine")
    async with serving(data_dir) as server:
        await fill(http, server, key)
    await moved(data_dir, "export", archive)
    again = await asyncio.to_thread(isthmus, data_dir, "import", str(archive))
    assert (again.returncode, "holds data already" in again.stderr) == (1, True), again.stderr
    occupied = await asyncio.to_thread(isthmus, data_dir, "export", str(scratch))
    assert (occupied.returncode, "something else" in occupied.stderr) == (1, True)
    part = archive / "parts" / "control" / "kv.copy"
    whole = part.read_bytes()
    part.write_bytes(whole.replace(b"here", b"gone"))
    damaged = await asyncio.to_thread(isthmus, home, "import", str(archive))
    assert (damaged.returncode, "kv.copy is damaged" in damaged.stderr) == (2, True), damaged.stderr
    part.write_bytes(whole)
    blob = next(path for path in (archive / "blobs").rglob("*") if path.is_file())
    bytes_before = blob.read_bytes()
    blob.write_bytes(bytes_before[:-1])
    cut = await asyncio.to_thread(isthmus, home, "import", str(archive))
    assert (cut.returncode, "is damaged" in cut.stderr) == (2, True), cut.stderr
    half = await asyncio.to_thread(isthmus, home, "stdio")
    assert (half.returncode, "import" in half.stderr) == (2, True), half.stderr
    blob.write_bytes(bytes_before)
    forged = await forgeries(home, archive)
    await moved(home, "import", archive)
    for refused in (damaged, cut, half, again, occupied, *forged):
        assert "Traceback" not in refused.stderr
