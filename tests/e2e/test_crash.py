"""kill -9 in the middle of writes: what was acknowledged is there, what was not is whole or absent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.e2e.processes import LONG, ServeProcess, environment, postmaster_pid

SERVER_KILLS, POSTMASTER_KILLS, WRITES = (20, 5, 1000) if LONG else (4, 2, 150)
WRITERS = 3
KINDS = ("sql", "kv", "object", "vector")


def body_of(number: int) -> str:
    """An object's text: long enough to be half written, and known from its number alone."""
    return (hashlib.sha256(str(number).encode()).hexdigest() + "\n") * 400


@dataclass
class Work:
    """What the writers are told, and what was acknowledged to them."""

    url: str
    acknowledged: dict[str, set[int]] = field(
        default_factory=lambda: {kind: set() for kind in KINDS}
    )
    next: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    over: bool = False
    errors: list[str] = field(default_factory=list)

    def take(self, kind: str) -> int:
        self.next[kind] += 1
        return self.next[kind]

    @property
    def enough(self) -> bool:
        return all(len(done) >= WRITES for done in self.acknowledged.values())


def call_for(kind: str, number: int) -> tuple[str, dict[str, Any]]:
    match kind:
        case "sql":
            sql = "insert into crash values ($1, $2) on conflict (n) do nothing"
            return "sql_execute", {"sql": sql, "params": [number, f"row {number}"]}
        case "kv":
            return "kv_set", {"namespace": "crash", "key": f"k{number}", "value": {"n": number}}
        case "object":
            return "object_put", {"bucket": "crash", "key": f"o{number}", "text": body_of(number)}
        case _:
            return "vector_add", {
                "store": "crash",
                "document": f"d{number}",
                "text": f"Fact {number}.",
            }


META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "crash-test", "version": "1"},
}


async def call(
    http: aiohttp.ClientSession, url: str, tool: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    """One tool call of the 2026-07-28 era, by hand."""
    params = {"name": tool, "arguments": arguments, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }
    async with http.post(f"{url}/mcp", json=message, headers=headers) as answer:
        return await answer.json()


async def write_forever(work: Work, kind: str) -> None:
    """Write until told to stop; a write without an answer is tried again, as a client would."""
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        while not work.over:
            number = work.take(kind)
            while not work.over and not await attempt(http, work, kind, number):
                await asyncio.sleep(0.05)


async def attempt(http: aiohttp.ClientSession, work: Work, kind: str, number: int) -> bool:
    try:
        answer = await call(http, work.url, *call_for(kind, number))
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
    result = answer.get("result")
    if result is None or result.get("isError"):
        text = str(answer.get("error") or answer["result"]["content"][0]["text"])
        if not text.startswith(("unavailable:", "timeout:")):
            work.errors.append(f"{kind} {number}: {text}")
        return False
    work.acknowledged[kind].add(number)
    return True


async def kill_until_enough(
    work: Work, data_dir: Path, start: Callable[[], Awaitable[ServeProcess]]
) -> tuple[int, int]:
    chance = random.Random(20261122)
    server = await start()
    plan = ["server"] * SERVER_KILLS + ["postmaster"] * POSTMASTER_KILLS
    chance.shuffle(plan)
    killed = {"server": 0, "postmaster": 0}
    for target in plan:
        await asyncio.sleep(chance.uniform(0.2, 1.5))
        if target == "server":
            await asyncio.to_thread(server.kill_group)
            server = await start()
        else:
            pid = postmaster_pid(data_dir)
            if pid is None:
                continue
            os.kill(pid, signal.SIGKILL)
        killed[target] += 1
    deadline = time.monotonic() + 300
    while not work.enough and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    work.over = True
    await asyncio.sleep(0.5)
    assert await asyncio.to_thread(server.stop) == 0
    return killed["server"], killed["postmaster"]


@pytest.mark.timeout(1500)
async def test_acknowledged_writes_survive_kill_9(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    work = Work(f"http://127.0.0.1:{port}")

    async def start() -> ServeProcess:
        server = ServeProcess(data_dir, port, AUTH="off")
        await asyncio.to_thread(server.wait_ready)
        return server

    first = await start()
    async with aiohttp.ClientSession() as http:
        made = await call(
            http,
            work.url,
            "sql_execute",
            {"sql": "create table crash (n bigint primary key, t text)"},
        )
        assert not made["result"].get("isError"), made
    assert await asyncio.to_thread(first.stop) == 0
    writers = [
        asyncio.create_task(write_forever(work, kind)) for kind in KINDS for _ in range(WRITERS)
    ]
    servers, postmasters = await kill_until_enough(work, data_dir, start)
    await asyncio.gather(*writers)
    assert work.errors == []
    counts = {kind: len(done) for kind, done in work.acknowledged.items()}
    print(
        f"\n{servers} kills of the server, {postmasters} of the postmaster; acknowledged: {counts}"
    )
    await check_all(work, data_dir)


async def check_all(work: Work, data_dir: Path) -> None:
    """Read everything through another door, from a process that has seen none of it."""
    target = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_server", "stdio"], env=environment(data_dir)
    )
    async with Client(stdio_client(target)) as client:

        async def ask(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result.content
            assert result.structured_content is not None
            return result.structured_content

        async def pages(tool: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
            items: list[dict[str, Any]] = []
            cursor = None
            while True:
                page = await ask(tool, {**arguments, "limit": 1000, "cursor": cursor})
                items += page["items"]
                cursor = page["next_cursor"]
                if cursor is None:
                    return items

        rows = await ask("sql_query", {"sql": "select n, t from crash", "max_rows": 10_000})
        found = {"sql": {n for n, t in rows["rows"] if t == f"row {n}"}}
        assert len(found["sql"]) == rows["row_count"]
        keys = await pages("kv_list", {"namespace": "crash"})
        assert all(item["value"] == {"n": int(item["key"][1:])} for item in keys)
        found["kv"] = {item["value"]["n"] for item in keys}
        objects = await pages("object_list", {"bucket": "crash"})
        for item in objects:
            number = int(item["key"][1:])
            whole = await ask("object_get", {"bucket": "crash", "key": item["key"]})
            assert whole["text"] == body_of(number), f"object {number} is not whole"
        found["object"] = {int(item["key"][1:]) for item in objects}
        documents = await pages("vector_list", {"store": "crash"})
        found["vector"] = {int(item["document"][1:]) for item in documents}
        for number in random.Random(1).sample(sorted(work.acknowledged["vector"]), 20):
            hits = await ask(
                "vector_search",
                {"store": "crash", "query": f"Fact {number}", "mode": "text", "k": 1},
            )
            assert hits["results"][0]["document"] == f"d{number}"
    for kind in KINDS:
        assert work.acknowledged[kind] <= found[kind], f"{kind}: acknowledged writes are lost"
