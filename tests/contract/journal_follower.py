"""A follower in a process of its own: prints `URI VERSION PREV` of a tenant's entries: `python -m tests.contract.journal_follower URL TENANT`.

It stops at the end of the journal once its standard input is closed.
"""

from __future__ import annotations

import asyncio
import sys

from mcp_server import journal
from mcp_server.storage.sql.control import open_pool

PAUSE_SECONDS = 0.01


async def follow(url: str, tenant: str) -> None:
    closed = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    position: str | None = None
    async with open_pool(url, pool_size=1, overflow=0) as control:
        print("ready", flush=True)
        while True:
            last = closed.done()  # asked before the read that may then find nothing more
            rows, position = await journal.read(control, tenant, position, 7)
            for row in rows:
                print(row["uri"], row["version"], row["prev_version"] or 0)
            if last and not rows:
                return
            await asyncio.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], sys.argv[2]))
