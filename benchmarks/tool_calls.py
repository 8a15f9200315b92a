"""CPU per tool call - in process, over stdio, over HTTP - beside the bare SDK, and what the envelope adds.

uv run --group dev python benchmarks/tool_calls.py
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from measure import (
    KEY,
    PLUGINS,
    Figure,
    cpu_seconds,
    floor_command,
    free_port,
    isthmus_command,
    isthmus_environment,
    measure,
    paired,
    report,
    running,
)

ROUNDS = 3
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
}


def params(number: int) -> dict[str, Any]:
    return {"name": "echo", "arguments": {"text": "hello", "number": number}, "_meta": META}


async def in_process(data_dir: Path) -> None:
    from floors import sdk_server
    from mcp.server.connection import Connection
    from mcp.server.runner import serve_one

    from mcp_server.auth.principal import OWNER
    from mcp_server.bus_in_process import _Dispatch
    from mcp_server.runtime import open_runtime
    from mcp_server.settings import Settings

    floor = sdk_server()._lowlevel_server  # noqa: SLF001  the same path as our bus takes
    settings = Settings(data_dir=data_dir, llm_url=("scripted:",), plugins=(PLUGINS,))  # pyright: ignore[reportCallIssue]
    async with open_runtime(settings) as runtime:

        async def ask_floor(number: int) -> None:
            connection = Connection.from_envelope("2026-07-28", {"name": "b", "version": "1"}, {})
            await serve_one(
                floor,
                _Dispatch(None),
                "tools/call",
                params(number),
                connection=connection,
                lifespan_state={},
            )

        async def ask_ours(number: int) -> None:
            await runtime.bus.call(OWNER, "echo", {"text": "hello", "number": number})

        async def envelope(_: int) -> None:
            async with runtime.operations(OWNER, "read", "tool://echo"):
                pass

        async def timed(request: Any, count: int) -> Figure:
            for number in range(count // 10):
                await request(number)
            begun, cpu = time.perf_counter(), time.process_time()
            for number in range(count):
                await request(number)
            return Figure(
                (time.process_time() - cpu) / count * 1e6, count / (time.perf_counter() - begun)
            )

        pair = await paired(lambda: timed(ask_floor, 2000), lambda: timed(ask_ours, 2000), ROUNDS)
        report("Tool call in process", *pair, "bare SDK (serve_one)")
        cost = min(
            [await timed(envelope, 5000) for _ in range(ROUNDS)], key=lambda figure: figure.cpu
        )
        print(
            f"The envelope (decide, meter, audit) adds {cost.cpu:.0f} µs of CPU to an operation.\n"
        )


async def over_stdio(data_dir: Path) -> None:
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    environment = dict(os.environ) | isthmus_environment(data_dir)

    async def once(command: list[str]) -> Figure:
        before = set(children())
        target = StdioServerParameters(command=command[0], args=command[1:], env=environment)
        async with Client(stdio_client(target)) as client:
            (pid,) = [pid for pid in children() if pid not in before]

            async def ask(number: int) -> None:
                await client.call_tool("echo", {"text": "hello", "number": number})

            return await measure(pid, ask, count=1000, clients=8)

    pair = await paired(
        lambda: once(floor_command("stdio")), lambda: once(isthmus_command("stdio")), ROUNDS
    )
    report("Tool call over stdio", *pair, "bare SDK")


def children() -> list[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found]


async def over_http(data_dir: Path) -> None:
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "echo",
        "Authorization": f"Bearer {KEY}",
    }
    floor_port, port = free_port(), free_port()
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        running(floor_command("http", str(floor_port)), floor_port) as floor,
        running(
            isthmus_command("serve", "--port", str(port)), port, isthmus_environment(data_dir)
        ) as ours,
    ):

        async def once(pid: int, at: int) -> Figure:
            async def ask(number: int) -> None:
                message = {
                    "jsonrpc": "2.0",
                    "id": number,
                    "method": "tools/call",
                    "params": params(number),
                }
                async with http.post(f"http://127.0.0.1:{at}/mcp", json=message) as answer:
                    result = (await answer.json())["result"]
                    assert result["structuredContent"]["number"] == number

            return await measure(pid, ask, count=2000, clients=16)

        await asyncio.sleep(2)
        pair = await paired(lambda: once(floor, floor_port), lambda: once(ours, port), ROUNDS)
        report(
            "Tool call over HTTP, 2026-07-28 era (ours with key, policy and audit)",
            *pair,
            "bare SDK",
        )


async def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        for part in (in_process, over_stdio, over_http):
            await part(Path(scratch) / "data")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    _ = cpu_seconds(os.getpid())
    asyncio.run(main())
