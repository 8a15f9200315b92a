"""What the tests see and start of the operating system: servers, members, other users."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from mcp_server.errors import ConfigurationError
from mcp_server.storage.sql.embedded import Cluster, open_cluster

ROOT = Path(__file__).parents[3]
IMPORTS = {"PYTHONPATH": f"{ROOT}:{Path(asyncpg.__file__).parents[1]}"}
SECONDS = 60.0
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""How asyncpg says that the server has died, depending on the moment."""


def servers(directory: Path) -> list[int]:
    """The PostgreSQL processes that work below `directory`."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_server = (process / "comm").read_text() == "postgres\n"
            if is_server and (process / "cwd").readlink().is_relative_to(directory.resolve()):
                found.append(int(process.name))
    return found


def end_servers(directory: Path) -> list[int]:
    """Kill what is left and return what that was."""
    left = servers(directory)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def postmaster(data_dir: Path) -> int:
    """Return its pid; between a death and the new start there is none for a moment."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return int((data_dir / "postgres/pgdata/postmaster.pid").read_text().splitlines()[0])
        except (FileNotFoundError, IndexError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def program_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/exe").readlink()


def user_of(pid: int) -> str:
    return Path(f"/proc/{pid}").owner()


def socket_of(cluster: Cluster) -> Path:
    return Path(parse_qs(urlsplit(cluster.control_url).query)["host"][0]) / ".s.PGSQL.5432"


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def fetch(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def fetch_patiently(url: str, query: str) -> Any:
    """Ask again while the server is away."""
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(*LOST):
                return await fetch(url, query)
            await asyncio.sleep(0.01)


async def refusal(data_dir: Path) -> str:
    """The one line with which opening ends."""
    with pytest.raises(ConfigurationError) as caught:
        async with open_cluster(data_dir):
            pass
    message = str(caught.value)
    assert "\n" not in message
    return message


def run_as(user: str, *command: str) -> str:
    """What the command, run by this user, complains of."""
    done = subprocess.run(
        command, user=user, extra_groups=[], cwd="/", env={}, capture_output=True, text=True
    )
    return done.stderr


class Member:
    """A process that runs `member.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.acknowledged = 0
        self.losses: int | None = None

    async def until(self, word: str) -> None:
        assert self._process.stdout
        async with asyncio.timeout(SECONDS):
            while line := (await asyncio.to_thread(self._process.stdout.readline)).split():
                if line[0] == "ack":
                    self.acknowledged += 1
                if line[0] == "done":
                    self.losses = int(line[1])
                if line[0] == word:
                    return
        raise AssertionError(f"ended with {self._process.wait()} before it said {word}")

    async def until_acknowledged(self, rows: int) -> None:
        while self.acknowledged < rows:
            await self.until("ack")

    def go_on(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    async def leave(self) -> None:
        self.go_on()
        assert await asyncio.to_thread(self._process.wait, SECONDS) == 0


@asynccontextmanager
async def member(
    data_dir: Path, name: str, rows: int = 0, user: str | None = None
) -> AsyncGenerator[Member]:
    """Start a member that waits for its first `go_on`; end it at the latest on leaving."""
    with _spawn(data_dir, name, str(rows), user=user) as process:
        running = Member(process)
        try:
            await running.until("waiting")
            yield running
        finally:
            running.kill()


def _spawn(*arguments: str | Path, user: str | None) -> subprocess.Popen[str]:
    python, environment = sys.executable, {**os.environ, **IMPORTS}
    switch: dict[str, Any] = {}
    if user:
        python, environment = _python_of(user)
        switch = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    return subprocess.Popen(
        [python, Path(__file__).with_name("member.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd="/",
        start_new_session=True,
        **switch,
    )


def _python_of(user: str) -> tuple[str, dict[str, str]]:
    """An interpreter and an environment with which this user can import us, or the test is skipped."""
    environment = {**IMPORTS, "PYTHONDONTWRITEBYTECODE": "1"}
    for python in (sys.executable, "/usr/bin/python3"):
        check = [python, "-c", "import mcp_server.storage.sql.embedded, asyncpg"]
        options: dict[str, Any] = {"user": user, "extra_groups": [], "env": environment, "cwd": "/"}
        with suppress(OSError):
            if subprocess.run(check, **options, capture_output=True).returncode == 0:
                return python, environment
    pytest.skip(f"there is no Python with these packages that {user} can run")
