"""One process that opens the embedded cluster and writes rows, driven over its standard streams.

`member.py DATA_DIR NAME ROWS` prints `waiting`, reads a line, opens, prints `open`, then
`ack N` after each committed row, `done LOSSES` with the number of lost connections, and leaves
after another line.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncpg

from mcp_server.storage.sql.embedded import open_cluster

LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class Writer:
    """Inserts rows until each is committed, however often the server dies under it."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._connection: asyncpg.Connection | None = None
        self.losses = 0

    async def _connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(self._url)
        await connection.execute("select pg_advisory_lock(1)")  # "if not exists" alone can race
        await connection.execute(
            "create table if not exists written (name text, n int, primary key (name, n))"
        )
        await connection.execute("select pg_advisory_unlock(1)")
        return connection

    async def write(self, n: int) -> None:
        while True:
            try:
                self._connection = self._connection or await self._connect()
                await self._connection.execute(
                    "insert into written values ($1, $2) on conflict do nothing", self._name, n
                )
                return
            except LOST:
                self.losses += 1
                self._connection = None
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        if self._connection:
            await self._connection.close()


def say(*words: object) -> None:
    print(*words, flush=True)


async def order() -> None:
    await asyncio.to_thread(sys.stdin.readline)


async def main(data_dir: Path, name: str, rows: int) -> None:
    say("waiting")
    await order()
    async with open_cluster(data_dir) as cluster:
        say("open")
        writer = Writer(cluster.control_url, name)
        for n in range(rows):
            await writer.write(n)
            say("ack", n)
        await writer.close()
        say("done", writer.losses)
        await order()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
