"""A process that fires schedules as fast as it can, to be killed: `firing_process CONTROL_URL`."""

from __future__ import annotations

import asyncio
import sys

from mcp_server.audit import Audit
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.storage.sql.control import open_pool
from tests.contract.runs.clockwork import Clockwork


async def main(url: str) -> None:
    async with open_pool(url, pool_size=2, overflow=0) as control:
        clock = Clockwork(Operations(Limits(), Audit()), control)
        print("firing", flush=True)
        while True:
            await clock.schedules.fire_due()
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
