"""Object throughput: through the service and through MCP over HTTP, beside the bare `minio` client and plain files.

uv run --group dev python benchmarks/objects.py
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from measure import KEY, free_port, isthmus_command, isthmus_environment, running

from mcp_server.auth.principal import OWNER
from mcp_server.runtime import open_runtime
from mcp_server.services.objects import ObjectService
from mcp_server.settings import Settings
from tests.servers.juicefs import JuiceFs

MIB = 1024 * 1024
ROUNDS = 3
# Size in bytes, how many, how many at once.
LOADS = ((4096, 40, 8), (MIB - 4096, 24, 8), (64 * MIB, 1, 1))
# What a tool may return at once is below 1 MiB.
MOST_INLINE = MIB


@dataclass(frozen=True)
class Way:
    """One way to store and to read an object by its number."""

    name: str
    put: Callable[[int, bytes], Awaitable[Any]]
    get: Callable[[int], Awaitable[int]]
    most: int = 1024 * MIB


async def pieces(body: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), MIB):
        yield body[start : start + MIB]


def plain(folder: Path) -> Way:
    def write(number: int, body: bytes) -> None:
        with (folder / str(number)).open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())

    return Way(
        "plain files, fsync",
        lambda number, body: asyncio.to_thread(write, number, body),
        lambda number: asyncio.to_thread(lambda: len((folder / str(number)).read_bytes())),
    )


def bare(server: JuiceFs) -> Way:
    client = server.client()
    client.make_bucket("bare")

    def read(number: int) -> int:
        answer = client.get_object("bare", str(number))
        try:
            return sum(len(chunk) for chunk in answer.stream(MIB))
        finally:
            answer.close()
            answer.release_conn()

    def write(number: int, body: bytes) -> None:
        client.put_object("bare", str(number), io.BytesIO(body), len(body), part_size=8 * MIB)

    return Way(
        "minio client",
        lambda number, body: asyncio.to_thread(write, number, body),
        lambda number: asyncio.to_thread(read, number),
    )


def service(name: str, objects: ObjectService) -> Way:
    async def read(number: int) -> int:
        _, chunks = await objects.open(OWNER, "bench", str(number))
        async with aclosing(chunks):
            return sum([len(chunk) async for chunk in chunks])

    return Way(
        name,
        lambda number, body: objects.put_stream(OWNER, "bench", str(number), pieces(body)),
        read,
    )


def over_http(name: str, http: aiohttp.ClientSession, port: int) -> Way:
    async def call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {
                "name": tool,
                "arguments": arguments,
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                    "io.modelcontextprotocol/clientCapabilities": {},
                    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
                },
            },
        }
        headers = {"Mcp-Name": tool}
        url = f"http://127.0.0.1:{port}/mcp"
        async with http.post(url, json=message, headers=headers) as answer:
            result = (await answer.json())["result"]
        assert not result.get("isError"), result
        return result["structuredContent"]

    async def put(number: int, body: bytes) -> None:
        encoded = base64.b64encode(body).decode()
        await call("object_put", {"bucket": "bench", "key": str(number), "base64": encoded})

    async def get(number: int) -> int:
        got = await call("object_get", {"bucket": "bench", "key": str(number)})
        return len(base64.b64decode(got["base64"]))

    return Way(name, put, get, MOST_INLINE)


async def rates(way: Way, size: int, count: int, at_once: int) -> tuple[float, float]:
    """Return MiB per second put and got."""
    body = os.urandom(size)

    async def run(one: Callable[[int], Awaitable[Any]]) -> float:
        numbers = iter(range(count))

        async def loop() -> None:
            for number in numbers:
                await one(number)

        begun = time.perf_counter()
        await asyncio.gather(*(loop() for _ in range(at_once)))
        return size * count / MIB / (time.perf_counter() - begun)

    async def get(number: int) -> None:
        assert await way.get(number) == size

    return await run(lambda number: way.put(number, body)), await run(get)


async def compare(floor: Way, ours: list[Way]) -> None:
    for size, count, at_once in LOADS:
        ways = [floor, *(way for way in ours if size <= way.most)]
        found: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
        for _ in range(ROUNDS):
            for way in ways:
                found[way.name].append(await rates(way, size, count, at_once))
        print(f"{size / MIB:.3f} MiB, {at_once} at once (MiB/s put, got; ratio to {floor.name})")
        base = [statistics.median(figures) for figures in zip(*found[floor.name], strict=True)]
        for name, figures in found.items():
            put, got = (statistics.median(each) for each in zip(*figures, strict=True))
            print(f"  {name:28}{put:9.1f}{got:9.1f}   {put / base[0]:.2f} {got / base[1]:.2f}")
    print()


@asynccontextmanager
async def ways_of(name: str, folder: Path, url: str | None) -> AsyncGenerator[list[Way]]:
    """Yield the service in this process, and MCP over HTTP to a server of its own."""
    port = free_port()
    environment = isthmus_environment(folder / "served")
    settings = Settings(data_dir=folder / "here", llm_url=("scripted:",), objects_url=url)  # pyright: ignore[reportCallIssue]
    if url is not None:
        environment["ISTHMUS_OBJECTS_URL"] = url
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Authorization": f"Bearer {KEY}",
    }
    command = isthmus_command("serve", "--port", str(port))
    async with (
        open_runtime(settings) as runtime,
        running(command, port, environment),
        aiohttp.ClientSession(headers=headers) as http,
    ):
        yield [
            service(f"service on {name}", runtime.services.objects),
            over_http(f"MCP over HTTP on {name}", http, port),
        ]


async def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, JuiceFs() as server:
        Path(scratch).chmod(0o755)
        for name, url in (("files", None), ("S3", server.url("isthmus"))):
            folder = Path(scratch) / name
            (folder / "plain").mkdir(parents=True)
            async with ways_of(name, folder, url) as ours:
                floor = plain(folder / "plain") if url is None else bare(server)
                await compare(floor, ours)


if __name__ == "__main__":
    asyncio.run(main())
