"""Keys through MCP - in process and over HTTP - beside the bare client library: rates and ratios of one run.

uv run --group dev --extra redis python benchmarks/kv.py
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import redis.asyncio
from measure import KEY, free_port, isthmus_command, isthmus_environment, running

sys.path.insert(0, str(Path(__file__).parents[1]))

CLIENTS = 8
COUNT = 240
ROUNDS = 3
VALUE = {"name": "benchmark", "numbers": [1, 2, 3], "text": "x" * 100}
TEXT = '{"name":"benchmark","numbers":[1,2,3],"text":"' + "x" * 100 + '"}'
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
}
TABLE = "create table if not exists bare_kv (key text primary key, value text not null)"
SET = "insert into bare_kv values ($1, $2) on conflict (key) do update set value = excluded.value"
GET = "select value from bare_kv where key = $1"

Ask = Callable[[int], Awaitable[Any]]


async def rate(ask: Ask) -> float:
    """Return calls per second of clients that ask one after the other."""
    numbers = iter(range(COUNT))

    async def client() -> None:
        for number in numbers:
            await ask(number)

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return COUNT / (time.perf_counter() - begun)


def key(number: int) -> str:
    return f"k{number % 500}"


@asynccontextmanager
async def bare_asyncpg(url: str) -> AsyncGenerator[dict[str, Ask]]:
    async with asyncpg.create_pool(url, min_size=CLIENTS, max_size=CLIENTS) as pool:
        await pool.execute(TABLE)
        yield {
            "set": lambda number: pool.execute(SET, key(number), TEXT),
            "get": lambda number: pool.fetchval(GET, key(number)),
        }


@asynccontextmanager
async def bare_redis(url: str) -> AsyncGenerator[dict[str, Ask]]:
    async with redis.asyncio.Redis.from_url(url) as client:
        yield {
            "set": lambda number: client.set(f"bare:{key(number)}", TEXT),
            "get": lambda number: client.get(f"bare:{key(number)}"),
        }


def over_http(http: aiohttp.ClientSession, port: int, namespace: str) -> dict[str, Ask]:
    async def call(tool: str, arguments: dict[str, Any]) -> None:
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": tool, "arguments": arguments, "_meta": META},
        }
        headers = {
            "Authorization": f"Bearer {KEY}",
            "Accept": "application/json, text/event-stream",
            "Mcp-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        }
        url = f"http://127.0.0.1:{port}/mcp"
        async with http.post(url, json=body, headers=headers) as response:
            text = await response.text()
            assert response.status == 200, text
            assert '"isError":true' not in text, text

    return asking(call, namespace)


def asking(call: Callable[[str, dict[str, Any]], Awaitable[Any]], namespace: str) -> dict[str, Ask]:
    return {
        "set": lambda number: call(
            "kv_set", {"key": key(number), "value": VALUE, "namespace": namespace}
        ),
        "get": lambda number: call("kv_get", {"key": key(number), "namespace": namespace}),
    }


async def compare(what: str, ways: dict[str, dict[str, Ask]]) -> None:
    """Measure all ways in turn, and print the median of each beside the first one's."""
    for verb in ("set", "get"):
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, asks in ways.items():
                rates[name].append(await rate(asks[verb]))
        medians = {name: sorted(found)[len(found) // 2] for name, found in rates.items()}
        bare = next(iter(medians.values()))
        print(f"{what}, {verb}")
        for name, median in medians.items():
            print(f"  {name:28}{median:8.0f}/s   {median / bare:5.2f} of the bare client")
        print(flush=True)


async def main() -> None:
    from mcp_server.auth.principal import OWNER
    from mcp_server.runtime import open_runtime
    from mcp_server.settings import Settings
    from mcp_server.storage.sql.embedded import open_cluster
    from tests.servers.valkey import Valkey

    folder = Path(tempfile.mkdtemp(prefix="isthmus-benchmark-"))
    folder.chmod(0o755)
    port = free_port()
    with Valkey() as valkey:
        environment = isthmus_environment(folder / "data") | {"ISTHMUS_REDIS_URL": valkey.url}
        settings = Settings(  # pyright: ignore[reportCallIssue]
            data_dir=folder / "data", llm_url=("scripted:",), redis_url=valkey.url
        )
        command = isthmus_command("serve", "--port", str(port))
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(open_cluster(folder / "data"))
            runtime = await stack.enter_async_context(open_runtime(settings, concurrency=0))
            await stack.enter_async_context(running(command, port, environment))
            http = await stack.enter_async_context(aiohttp.ClientSession())

            async def in_process(tool: str, arguments: dict[str, Any]) -> None:
                result = await runtime.bus.call(OWNER, tool, arguments)
                assert not result.is_error, result.text

            for what, bare, namespace in (
                ("Durable keys", bare_asyncpg(cluster.control_url), "benchmark"),
                ("Cache keys on Valkey", bare_redis(valkey.url), "cache/benchmark"),
            ):
                asks = await stack.enter_async_context(bare)
                await compare(
                    f"{what}, {CLIENTS} clients, {len(TEXT)} bytes, {os.cpu_count()} cores",
                    {
                        "bare client library": asks,
                        "MCP in process": asking(in_process, namespace),
                        "MCP over HTTP": over_http(http, port, namespace),
                    },
                )


if __name__ == "__main__":
    asyncio.run(main())
