"""`isthmus worker`: executes runs, and serves nothing."""

from __future__ import annotations

import asyncio
import signal

from mcp_server.errors import ConfigurationError
from mcp_server.runtime import open_runtime
from mcp_server.settings import Settings
from mcp_server.telemetry import configure_logging

# How long what runs may go on after SIGTERM; what has not ended then is handed back.
GRACE_SECONDS = 10.0
MOST_SLOTS = 256


async def worker(settings: Settings, concurrency: int | None) -> int:
    """Execute up to `concurrency` runs at once until SIGTERM or SIGINT; a second one cuts the grace short.

    Raises:
        ConfigurationError: the number does not fit, or an engine does not open.
    """
    configure_logging(settings.log_level, settings.log_format)
    slots = settings.run_concurrency if concurrency is None else concurrency
    if not 1 <= slots <= MOST_SLOTS:
        raise ConfigurationError(f"--concurrency: {slots} is not within 1-{MOST_SLOTS}")
    stopped, hurried = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (hurried if stopped.is_set() else stopped).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with open_runtime(settings, concurrency=slots) as runtime:
        from mcp_server.app import bind_works  # a number that does not fit need not wait for it

        bind_works(runtime)
        print(f"Isthmus worker is ready ({slots} slots)", flush=True)
        await stopped.wait()
        if runtime.worker is not None:
            draining = asyncio.create_task(runtime.worker.drain(GRACE_SECONDS))
            hurry = asyncio.create_task(hurried.wait())
            await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
            for task in (draining, hurry):
                task.cancel()
            await asyncio.gather(draining, hurry, return_exceptions=True)
    return 0
