"""One tenant's searches alone and beside another tenant that saturates search; each in a process of its own, as is the server.

PYTHONPATH=. uv run --group dev python benchmarks/neighbours.py [--engine postgresql|milvus] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.measure import cpu_seconds, free_port, isthmus_command, isthmus_environment, running
from benchmarks.vector_world import Cloud, fill
from mcp_server.auth.keys import KeyService
from mcp_server.ingest.embed_encoder import SentenceEncoder
from mcp_server.storage.sql.control import open_control
from mcp_server.storage.sql.embedded import open_cluster
from mcp_server.storage.vectors import open_vectors
from tests.servers.milvus import MilvusLite

# A few at a time, alone and beside the noise in turn, so that what else the machine does disturbs both alike.
PROBES = 100
LOOPS = 32
QUIET_ROWS, NOISY_ROWS = 1000, 15_000
# Between two probes: who asks without a pause is no quiet tenant.
PAUSE_SECONDS = 0.02
SETTLE_SECONDS = 3.0
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
}
WORDS = [
    "bridge",
    "tide",
    "harbour",
    "market",
    "wind",
    "stone",
    "letter",
    "garden",
    "winter",
    "signal",
    "copper",
    "ferry",
]


def headers(key: str) -> dict[str, str]:
    return {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "vector_search",
        "Authorization": f"Bearer {key}",
    }


async def search(http: aiohttp.ClientSession, port: int, mode: str) -> bool:
    """Search for some words; False: the server refused because its queue is full."""
    query = " ".join(random.choices(WORDS, k=6))
    arguments = {"store": "s", "query": query, "mode": mode}
    params = {"name": "vector_search", "arguments": arguments, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    async with http.post(f"http://127.0.0.1:{port}/mcp", json=message) as answer:
        result = (await answer.json())["result"]
    if result.get("isError"):
        assert "limit_exceeded" in json.dumps(result), result
        return False
    return True


async def quiet(port: int, key: str, mode: str) -> None:
    """Print the milliseconds of searches one after the other."""
    async with aiohttp.ClientSession(headers=headers(key)) as http:
        for _ in range(5):
            await search(http, port, mode)
        spent: list[float] = []
        for _ in range(PROBES):
            begun = time.perf_counter()
            assert await search(http, port, mode), "the quiet tenant was refused"
            spent.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(PAUSE_SECONDS)
    print(json.dumps(spent))


async def noisy(port: int, key: str, mode: str) -> None:
    """Search in many loops until the input ends; print how many were answered and refused."""
    told = {True: 0, False: 0}
    connector = aiohttp.TCPConnector(limit=LOOPS)
    async with aiohttp.ClientSession(headers=headers(key), connector=connector) as http:

        async def loop() -> None:
            while True:
                answered = await search(http, port, mode)
                told[answered] += 1
                if not answered:
                    await asyncio.sleep(0.1)

        loops = [asyncio.create_task(loop()) for _ in range(LOOPS)]
        end = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait([end, *loops], return_when=asyncio.FIRST_COMPLETED)
        for each in loops:
            if each.done():
                each.result()
            each.cancel()
    print(json.dumps([told[True], told[False]]))


def client(kind: str, port: int, key: str, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--client", kind, str(port), key, mode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def said(process: subprocess.Popen[str]) -> Any:
    out, _ = await asyncio.to_thread(process.communicate)
    return json.loads(out)


def p99(spent: list[float]) -> float:
    return sorted(spent)[len(spent) * 99 // 100 - 1]


async def one_round(
    port: int, server: int, keys: dict[str, str], mode: str
) -> tuple[list[float], list[float]]:
    """Print and return the times alone, measured before and after the noise, and those beside it."""
    before = await said(client("quiet", port, keys["quiet"], mode))
    crowd = client("noisy", port, keys["noisy"], mode)
    await asyncio.sleep(SETTLE_SECONDS)
    cpu, begun = cpu_seconds(server), time.perf_counter()
    beside = await said(client("quiet", port, keys["quiet"], mode))
    beside += await said(client("quiet", port, keys["quiet"], mode))
    busy = (cpu_seconds(server) - cpu) / (time.perf_counter() - begun)
    answered, refused = await said(crowd)
    seconds = time.perf_counter() - begun + SETTLE_SECONDS
    await asyncio.sleep(SETTLE_SECONDS)
    alone = before + await said(client("quiet", port, keys["quiet"], mode))
    what = f"{answered / seconds:.0f}/s, {refused} refused | {busy:.2f} | {os.getloadavg()[0]:.1f}"
    print(f"| {shown(alone, beside)} | {what} |", flush=True)
    return alone, beside


def shown(alone: list[float], beside: list[float]) -> str:
    medians = statistics.median(alone), statistics.median(beside)
    return (
        f"{medians[0]:.1f} | {p99(alone):.1f} | {medians[1]:.1f} | {p99(beside):.1f} |"
        f" **{p99(beside) / p99(alone):.2f}**"
    )


async def prepare(folder: Path, url: str | None) -> dict[str, str]:
    """Fill both stores and return both keys; vectors stand in for passages, the queries are embedded."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(open_cluster(folder))
        control = await stack.enter_async_context(open_control(cluster.control_url))
        made = KeyService(control)
        keys = {name: (await made.create(name, tenant=name))["key"] for name in ("quiet", "noisy")}
        engine = await stack.enter_async_context(open_vectors(url, control))
        model, size = SentenceEncoder.model, SentenceEncoder.dimensions
        for name, count in (("quiet", QUIET_ROWS), ("noisy", NOISY_ROWS)):
            await fill(control, engine, name, "s", Cloud.of(count, dimensions=size), model)
    return keys


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["postgresql", "milvus"], default="postgresql")
    parser.add_argument("--mode", default="hybrid")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", help="a script to run in the server's place")
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="isthmus-benchmark-"))
    folder.chmod(0o755)
    try:
        async with AsyncExitStack() as stack:
            url = None
            if wanted.engine == "milvus":
                url = stack.enter_context(MilvusLite()).url
            keys = await prepare(folder / "data", url)
            port = free_port()
            command = isthmus_command("serve", "--port", str(port))
            if wanted.server:
                command = [sys.executable, wanted.server, *command[3:]]
            environment = isthmus_environment(folder / "data")
            if url is not None:
                environment["ISTHMUS_VECTORS_URL"] = url
            server = await stack.enter_async_context(running(command, port, environment))
            await said(client("quiet", port, keys["quiet"], wanted.mode))  # loads the model
            print(f"{wanted.engine}, {wanted.mode}, {os.cpu_count()} cores; ms")
            print(
                "| p50 alone | p99 alone | p50 beside | p99 beside | ratio of p99 | the noisy one's answers |"
                " CPU of the server's process | load |\n|---|---|---|---|---|---|---|---|"
            )
            rounds = [
                await one_round(port, server, keys, wanted.mode) for _ in range(wanted.rounds)
            ]
            alone = [each for one, _ in rounds for each in one]
            beside = [each for _, other in rounds for each in other]
            ratios = [p99(other) / p99(one) for one, other in rounds]
            print(
                f"| {shown(alone, beside)} | all of {len(alone)} and {len(beside)} searches | | |"
            )
            print(f"median of the rounds' ratios {statistics.median(ratios):.2f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        asyncio.run({"quiet": quiet, "noisy": noisy}[sys.argv[2]](int(sys.argv[3]), *sys.argv[4:]))
    else:
        asyncio.run(main())
