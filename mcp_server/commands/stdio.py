"""`isthmus stdio`: MCP over stdin and stdout."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from mcp_server.runtime import open_runtime
from mcp_server.settings import Settings
from mcp_server.telemetry import configure_logging
from mcp_server.transports.stdio import StdioConnection


async def stdio(settings: Settings) -> int:
    """Serve until the client closes stdin or asks us to end."""
    configure_logging(settings.log_level, settings.log_format)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with open_runtime(settings) as runtime:
        connection = StdioConnection(runtime.server)
        serving = asyncio.create_task(connection.serve())
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if serving.done():
            await serving
            return 0
        await connection.stop()
    # Everything is closed, but a thread still reads stdin and would hold the process until it ends.
    sys.stderr.flush()
    os._exit(0)
