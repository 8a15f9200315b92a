"""Many processes and one cluster: shared from the same instant, killed, and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import pytest

from mcp_server.storage.sql.embedded import open_cluster
from mcp_server.storage.sql.embedded.initialise import remove_abandoned
from tests.contract.embedded_cluster.processes import (
    LOST,
    SECONDS,
    Member,
    eventually,
    fetch,
    fetch_patiently,
    member,
    postmaster,
    servers,
    socket_of,
)


def count_of(name: str) -> str:
    return f"select count(*) from written where name = '{name}'"


@pytest.mark.parametrize("names", ["ab", "abc"])
async def test_processes_that_start_at_the_same_instant_share_one_server(
    data_dir: Path, names: str
) -> None:
    rows = 1000
    async with asyncio.TaskGroup() as tasks, _members(data_dir, names, rows) as members:
        for each in members:
            each.go_on()
        victim, *others = members
        finished = [tasks.create_task(other.until("done")) for other in others]
        await victim.until_acknowledged(rows // 3)
        victim.kill()
        await asyncio.gather(*finished)
        assert [other.losses for other in others] == [0] * len(others)
        async with open_cluster(data_dir) as cluster:
            found = [await fetch(cluster.control_url, count_of(name)) for name in names]
        assert found[1:] == [rows] * len(others)
        assert found[0] >= victim.acknowledged
        assert postmaster(data_dir) in servers(data_dir)
        for other in others:
            await other.leave()
    assert servers(data_dir) == []


@asynccontextmanager
async def _members(data_dir: Path, names: str, rows: int) -> AsyncGenerator[list[Member]]:
    async with member(data_dir, names[0], rows) as first:
        if len(names) == 1:
            yield [first]
        else:
            async with _members(data_dir, names[1:], rows) as rest:
                yield [first, *rest]


async def test_the_server_outlives_its_killed_starter_and_ends_with_the_next_user(
    used_dir: Path,
) -> None:
    async with member(used_dir, "starter", 1) as starter:
        starter.go_on()
        await starter.until("done")
        before = postmaster(used_dir)
        starter.kill()
    assert before in servers(used_dir)
    async with open_cluster(used_dir) as cluster:
        assert postmaster(used_dir) == before
        assert await fetch(cluster.control_url, count_of("starter")) == 1
    assert servers(used_dir) == []


@pytest.mark.parametrize("moment", ["initdb-*", "initdb-*/pgdata/global/pg_control"])
async def test_a_first_start_that_is_killed_is_made_good_by_the_next(
    data_dir: Path, moment: str
) -> None:
    async with member(data_dir, "first") as first:
        first.go_on()
        await eventually(lambda: list((data_dir / "postgres").glob(moment)))
        first.kill()
    async with open_cluster(data_dir) as cluster:
        assert await fetch(cluster.data_url, "select 1") == 1
    assert not list((data_dir / "postgres").glob("initdb-*"))


def test_what_an_orphan_still_writes_is_removed(tmp_path: Path) -> None:
    """As an initdb does whose parent was killed: it writes for a while, or until a folder is away."""
    staging = tmp_path / "initdb-orphan"
    (staging / "pgdata").mkdir(parents=True)
    busy = "for n in $(seq 50000); do : > pgdata/$n; done"
    with subprocess.Popen(["/bin/sh", "-c", busy], cwd=staging, stderr=subprocess.DEVNULL):
        while not list((staging / "pgdata").glob("1*")):
            pass
        remove_abandoned(tmp_path)
        assert not staging.exists()


async def test_no_acknowledged_row_is_lost_when_the_postmaster_is_killed(used_dir: Path) -> None:
    rows, kills = 1000, 5
    async with member(used_dir, "writer", rows) as writer, open_cluster(used_dir) as cluster:
        writer.go_on()
        for kill in range(kills):
            await writer.until_acknowledged((kill + 1) * rows // (kills + 2))
            os.kill(postmaster(used_dir), signal.SIGKILL)
        await writer.until("done")
        assert writer.losses
        assert writer.acknowledged == rows
        assert await fetch_patiently(cluster.control_url, count_of("writer")) == rows
        await writer.leave()


async def test_a_busy_orphan_does_not_hold_up_the_restart(used_dir: Path) -> None:
    async with open_cluster(used_dir) as cluster:
        busy = await asyncpg.connect(cluster.data_url)
        endless = asyncio.create_task(
            busy.fetchval("select count(*) from generate_series(1, 1000000000000)")
        )
        running = "select count(*) from pg_stat_activity where query like '%1000000000000%' and pid <> pg_backend_pid()"
        async with asyncio.timeout(SECONDS):
            while not await fetch(cluster.data_url, running):
                pass
        os.kill(postmaster(used_dir), signal.SIGKILL)
        assert await fetch_patiently(cluster.data_url, "select 1") == 1
        with pytest.raises(LOST):
            await endless
        await busy.close()


async def test_a_stale_process_id_that_now_belongs_to_another_program_is_no_obstacle(
    used_dir: Path,
) -> None:
    pgdata = used_dir / "postgres" / "pgdata"
    async with open_cluster(used_dir) as cluster:
        lines = (pgdata / "postmaster.pid").read_text().splitlines()
        socket = socket_of(cluster)
    with other_program(user=pgdata.owner()) as pid:
        for leftover in (pgdata / "postmaster.pid", socket.with_name(f"{socket.name}.lock")):
            leftover.parent.mkdir(0o700, exist_ok=True)
            leftover.write_text("\n".join([str(pid), *lines[1:]]))
        shutil.chown(socket.parent, pgdata.owner())
        async with open_cluster(used_dir) as cluster:
            assert await fetch(cluster.control_url, "select 1") == 1


@contextmanager
def other_program(user: str) -> Generator[int]:
    with subprocess.Popen(["/bin/sleep", "300"], user=user) as process:
        try:
            yield process.pid
        finally:
            process.kill()
