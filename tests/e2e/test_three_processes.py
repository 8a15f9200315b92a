"""Three processes on one empty directory at the same instant, one of them killed: nobody else notices."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.e2e.processes import ServeProcess, environment, is_running, postmaster_pid

ROWS, BATCH = 1000, 20
INSERT = "insert into three select $1::text, n from generate_series($2::int, $3::int) n"

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]


def asker(client: Client) -> Ask:
    async def ask(tool: str, arguments: dict[str, Any]) -> Any:
        result = await client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        return result.structured_content

    return ask


@asynccontextmanager
async def stdio(data_dir: Path) -> AsyncIterator[tuple[Ask, int]]:
    """A stdio server and its pid."""
    before = set(children())
    target = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_server", "stdio"], env=environment(data_dir)
    )
    async with Client(stdio_client(target)) as client:
        pid = next(pid for pid in children() if pid not in before and b"stdio" in command_of(pid))
        yield asker(client), pid


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def write(ask: Ask, name: str, acknowledged: set[tuple[str, int]]) -> None:
    for first in range(0, ROWS, BATCH):
        last = first + BATCH - 1
        await ask("sql_execute", {"sql": INSERT, "params": [name, first, last]})
        acknowledged |= {(name, number) for number in range(first, last + 1)}


@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds children by /proc")
async def test_three_processes_start_together_and_one_dies(data_dir: Path) -> None:
    server = ServeProcess(data_dir, AUTH="off")
    acknowledged: set[tuple[str, int]] = set()
    async with AsyncExitStack() as stack:
        ready = asyncio.create_task(asyncio.to_thread(server.wait_ready))
        ask_survivor, _ = await stack.enter_async_context(stdio(data_dir))
        url = await ready
        http = await stack.enter_async_context(Client(streamable_http_client(f"{url}/mcp")))
        ask_http = asker(http)
        await ask_http(
            "sql_execute", {"sql": "create table three (who text, n int, primary key (who, n))"}
        )
        victim = asyncio.create_task(killed_while_writing(data_dir, acknowledged))
        await asyncio.gather(
            write(ask_http, "serve", acknowledged),
            write(ask_survivor, "stdio", acknowledged),
            victim,
        )
        rows = await ask_survivor(
            "sql_query", {"sql": "select who, n from three", "max_rows": 10_000}
        )
        found = {(who, number) for who, number in rows["rows"]}
        assert acknowledged <= found
        assert {("serve", ROWS - 1), ("stdio", ROWS - 1)} <= found
        assert 0 < len([who for who, _ in found if who == "victim"]) < ROWS
        postmaster = postmaster_pid(data_dir)
        assert postmaster is not None
        assert is_running(postmaster)
    assert await asyncio.to_thread(server.stop) == 0
    assert not [line for line in server.errors if "ERROR" in line or "Traceback" in line], (
        server.errors
    )
    assert postmaster_pid(data_dir) is None
    async with asyncio.timeout(10):
        while is_running(postmaster) and b"postgres" in command_of(postmaster):
            await asyncio.sleep(0.05)


async def killed_while_writing(data_dir: Path, acknowledged: set[tuple[str, int]]) -> None:
    """Write from a third process and kill -9 it half-way."""
    with pytest.RaisesGroup(
        pytest.RaisesExc((MCPError, OSError)), allow_unwrapped=True, flatten_subgroups=True
    ):
        async with stdio(data_dir) as (ask, pid):
            for first in range(0, ROWS, BATCH):
                if first == ROWS // 2:
                    os.kill(pid, signal.SIGKILL)
                last = first + BATCH - 1
                await ask("sql_execute", {"sql": INSERT, "params": ["victim", first, last]})
                acknowledged |= {("victim", number) for number in range(first, last + 1)}
