"""Workers with a short lease: `python -m tests.e2e.quick_workers LEASE` forks one per line of stdin and prints its pid.

Everything is imported once: a worker costs a fork. All end with their parent's stdin.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys

from mcp_server import runtime
from mcp_server.commands.worker import worker
from mcp_server.runs.intervals import Timing
from mcp_server.runs.leases import Leases
from mcp_server.settings import load_settings


def hurry(lease: float) -> None:
    timing = Timing(lease=lease, heartbeat=lease / 5)
    runtime.open_worker = functools.partial(runtime.open_worker, timing=timing)  # pyright: ignore[reportPrivateImportUsage]
    Leases.__init__.__defaults__ = (lease,)


def main() -> None:
    hurry(float(sys.argv[1]))
    workers: list[int] = []
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            os._exit(asyncio.run(worker(load_settings(), concurrency=None)))
        workers.append(pid)
        print(pid, flush=True)
    for pid in workers:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    for pid in workers:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
