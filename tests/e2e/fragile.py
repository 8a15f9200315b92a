"""Workers that kill or stop themselves at chosen points: `python -m tests.e2e.fragile LOG CALM LEASE` forks one per line of stdin.

Everything is imported once and each worker is a fork, so that hundreds of kills cost no start. A line
is `SEED CHANCE`; the answer is the worker's pid. Just before a worker dies or stops it appends
`HOW WHEN POINT PID` to LOG; once the file CALM exists, none does any more.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mcp_server import runtime
from mcp_server.commands.worker import worker
from mcp_server.operation import Operation
from mcp_server.runs import leases
from mcp_server.runs.events import RunEvents
from mcp_server.runs.intervals import Timing
from mcp_server.runs.leases import Leases
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.steps import RunSteps
from mcp_server.settings import load_settings
from mcp_server.storage.sql.postgresql import PostgresqlEngine

# Each transition of a run, each half of a step, and each side of an effect's transaction. Leases are
# renewed all the time, also while there is nothing to do: they are broken less often.
POINTS: tuple[tuple[type[Any], str], ...] = (
    (RunQueue, "claim"),
    (RunQueue, "end"),
    (RunQueue, "hand_back"),
    (RunQueue, "suspend"),
    (RunEvents, "append"),
    (RunSteps, "finish"),
    (Leases, "take"),
    (Leases, "renew"),
    (Leases, "reap"),
    (Operation, "replay"),
    (Operation, "remember"),
    (PostgresqlEngine, "run"),
)


def break_points(log: Path, calm: Path, chance: random.Random, share: float) -> None:
    """Make each point end or stop this process with the probability `share`, before or after it."""

    def perhaps(when: str, point: str) -> None:
        rare = 5 if point.startswith("Leases.") else 1
        if chance.random() >= share / rare or calm.exists():
            return
        how = "kill" if chance.random() < 0.7 else "stop"
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{how} {when} {point} {os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)

    def fragile(original: Callable[..., Awaitable[Any]], point: str) -> Callable[..., Any]:
        @functools.wraps(original)
        async def call(*args: Any, **kwargs: Any) -> Any:
            perhaps("before", point)
            result = await original(*args, **kwargs)
            perhaps("after", point)
            return result

        return call

    for owner, name in POINTS:
        setattr(owner, name, fragile(getattr(owner, name), f"{owner.__name__}.{name}"))


def hurry(lease: float) -> None:
    """Shorten the lease, and let no run be given up because its worker died too often."""
    timing = Timing(lease=lease, heartbeat=lease / 5, retry=0.2)
    runtime.open_worker = functools.partial(runtime.open_worker, timing=timing)  # pyright: ignore[reportPrivateImportUsage]
    Leases.__init__.__defaults__ = (lease,)
    leases.MAX_STRIKES = 1_000_000


def main() -> None:
    log, calm = Path(sys.argv[1]), Path(sys.argv[2])
    hurry(float(sys.argv[3]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    for line in sys.stdin:
        seed, share = line.split()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            break_points(log, calm, random.Random(int(seed)), float(share))
            os._exit(asyncio.run(worker(load_settings(), concurrency=None)))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
