"""A process with a worker, to be stopped or killed: `worker_process CONTROL_URL SUFFIX`.

It prints `ready`, and drains on SIGTERM. Work on a lost lease shows as `lost RUN` on stdout.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from tests.contract.runs.engine import open_engine


async def main(url: str, suffix: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with open_engine(url, suffix) as engine:
        while engine.worker._heartbeat.epoch is None:
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
