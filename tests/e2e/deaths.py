"""Workers that are killed and stopped at the points of `tests.e2e.fragile`, and a driver that outlives its database."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from mcp_server.errors import Unavailable
from tests.e2e.processes import environment

LEASE_SECONDS = 1.0
# How often a point ends or stops its worker.
CHANCE = 0.06


@dataclass
class Zygote:
    """The process that forks workers, and what is known of them."""

    process: subprocess.Popen[str]
    log: Path
    calm: Path
    chance: random.Random
    workers: int
    share: float
    alive: set[int] = field(default_factory=set)
    stopped: dict[int, float] = field(default_factory=dict)
    read: int = 0

    def spawn(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self.chance.getrandbits(31)} {self.share}\n")
        self.process.stdin.flush()
        self.alive.add(int(self.process.stdout.readline()))

    def points(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    def tend(self) -> None:
        """Let the stopped go on once their lease is over, and put new workers in the place of the dead."""
        now = time.monotonic()
        points = self.points()
        for line in points[self.read :]:
            how, _, _, pid = line.split()
            if how == "stop":
                # Half of them wake up before anyone could have taken over.
                self.stopped[int(pid)] = now + self.chance.choice((0.3, LEASE_SECONDS + 1.0))
        self.read = len(points)
        for pid, due in list(self.stopped.items()):
            if now >= due:
                del self.stopped[pid]
                signalled(pid, signal.SIGCONT)
        self.alive = {pid for pid in self.alive if signalled(pid, 0)}
        while len(self.alive) < self.workers:
            self.spawn()

    async def tend_forever(self) -> None:
        """Tend them beside whatever waits for them: a stopped one may hold what that needs."""
        while True:
            self.tend()
            await asyncio.sleep(0.1)

    def end(self) -> None:
        for pid in self.alive:
            signalled(pid, signal.SIGCONT)
            signalled(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while any(signalled(pid, 0) for pid in self.alive) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = {pid for pid in self.alive if signalled(pid, 0)}
        for pid in left:
            signalled(pid, signal.SIGKILL)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()
        assert not left, "a worker did not drain within 30 s"


def signalled(pid: int, number: int) -> bool:
    """Send a signal; tells whether the process is there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def fragile_workers(
    data_dir: Path,
    plugins: Path,
    *,
    workers: int = 2,
    share: float = CHANCE,
    points: str = "tests.e2e.fragile",
    **settings: str,
) -> Iterator[Zygote]:
    """Yield workers over a data directory that is in use; none is there before the first is tended.

    `points` is the module that names where they die.
    """
    log, calm = data_dir.with_suffix(".points"), data_dir.with_suffix(".calm")
    errors = data_dir.with_suffix(".errors").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", points, str(log), str(calm), str(LEASE_SECONDS)],
        env=environment(data_dir, PLUGINS=str(plugins), AUTH="off", **settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    zygote = Zygote(process, log, calm, random.Random(20261122), workers, share)
    try:
        yield zygote
    finally:
        zygote.end()
        errors.close()


@contextmanager
def forgiving() -> Iterator[None]:
    """Overlook what the driver leaves behind when its server dies: a future of its own that nobody awaits."""
    loop = asyncio.get_running_loop()
    strict = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), asyncpg.ConnectionDoesNotExistError):
            (strict or loop.default_exception_handler)(loop, context)  # pyright: ignore[reportCallIssue]

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(strict)


async def insistent(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the database answers: it is killed as well."""
    for _ in range(600):
        try:
            return await ask()
        except (Unavailable, SQLAlchemyError, OSError):
            await asyncio.sleep(0.1)
    raise AssertionError("the control database did not come back within a minute")
