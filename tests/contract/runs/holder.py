"""A process that holds runs, to be stopped or killed: `holder.py CONTROL_URL TENANT COUNT`.

It starts COUNT runs that call a tool every 200 ms, prints their ids, and once none of them is its own
any more prints `let go`.
"""

from __future__ import annotations

import asyncio
import sys

import anyio
from world import World

from mcp_server.audit import Audit
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.runs.intervals import Timing
from mcp_server.storage.sql.control import open_control

CALL_OFTEN = """
turns: [{tool_calls: [{name: kv_set, arguments: {key: beat, value: 1}}], delay_ms: 200}]
"""


async def main(url: str, tenant: str, count: int) -> None:
    principal = Principal(tenant, "holder", OWNER_SCOPES)
    async with open_control(url) as control:
        world = World(Operations(Limits(), Audit()), control)
        world.script = CALL_OFTEN
        await world.save(principal, limits={"turns": 100})
        async with world.open(timing=Timing(lease=2, heartbeat=0.1)) as runs:
            started = [await runs.start(principal, "helper", "go") for _ in range(count)]
            print(*(run["run"] for run in started), flush=True)
            while not world.worker.held:
                await anyio.sleep(0.05)
            # It tells nobody outside when it lets go, so this looks.
            while world.worker.held & {run["run"] for run in started}:
                await anyio.sleep(0.05)
            print("let go", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
