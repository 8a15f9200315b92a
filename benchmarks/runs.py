"""Runs per second, queue latency and followed streams, beside a bare SKIP LOCKED loop over the same PostgreSQL.

uv run --group dev python benchmarks/runs.py
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from measure import (
    KEY,
    PLUGINS,
    Figure,
    cpu_seconds,
    floor_command,
    free_port,
    isthmus_command,
    isthmus_environment,
    median,
    report,
    running,
)

from mcp_server.auth.principal import OWNER
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import load_settings
from mcp_server.storage.sql.embedded import open_cluster

ROUNDS = 3
COUNT = 1000
SLOTS = 8
IDLE, IDLE_SECONDS = 200, 0.04
TOKENS = 20_000
PACED, PER_SECOND = 200, 20

JOBS = """
    create table jobs (
        id bigint generated always as identity primary key, status text not null, input text,
        created_at timestamptz not null default clock_timestamp(), started_at timestamptz,
        ended_at timestamptz)
"""
TIMES = """
    select extract(epoch from max(ended_at) - min(started_at))::float as seconds,
        count(*) filter (where status = 'completed') as done
"""
TOLD = """
    select count(*) as frames, sum(octet_length(events)) as bytes, sum(last_seq - first_seq + 1) as events
    from run_events where run = $1
"""


async def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        data_dir = Path(scratch) / "data"
        settings = load_settings(
            data_dir=data_dir, llm_url=("scripted:",), plugins=(PLUGINS,), auth="off"
        )
        async with open_runtime(settings, concurrency=0) as runtime, open_cluster(data_dir) as it:
            url = it.control_url
            control = await asyncpg.connect(url)
            await control.execute(JOBS)
            await control.execute("create index on jobs (id) where status = 'queued'")
            await control.execute("create table tokens (id bigint primary key, text text)")
            for workers in (1, 2):
                await throughput(runtime, control, url, data_dir, workers)
            await latency(runtime, control, url, data_dir)
            await stream(control, data_dir)
            await control.close()


async def throughput(
    runtime: Runtime, control: Any, url: str, data_dir: Path, workers: int
) -> None:
    """Let workers do what waits already, all of it due at one moment."""
    floor_worker = floor_command("jobs", url, str(SLOTS))
    floors: list[Figure] = []
    figures: list[Figure] = []
    for _ in range(ROUNDS):
        async with processes([floor_worker] * workers, {}) as pids:
            await control.execute("truncate jobs")
            begun = cpu(pids)
            add = (
                "insert into jobs (status, input) select 'queued', '{}' from generate_series(1, $1)"
            )
            await control.execute(add, COUNT)
            seconds = await all_done(control, "from jobs", COUNT)
            floors.append(Figure((cpu(pids) - begun) / COUNT * 1e6, COUNT / seconds))
        async with isthmus_workers(data_dir, workers) as pids:
            await control.execute("truncate runs cascade")
            await submit(runtime, COUNT, datetime.now(UTC) + timedelta(hours=1))
            begun = cpu(pids)
            await control.execute("update runs set not_before = clock_timestamp()")
            runtime.engines.wake.send("queue")
            seconds = await all_done(control, "from runs", COUNT)
            figures.append(Figure((cpu(pids) - begun) / COUNT * 1e6, COUNT / seconds))
    floor, ours = median(floors), median(figures)
    report(f"Short runs, {workers} worker(s) of {SLOTS} places", floor, ours, "bare SKIP LOCKED")
    print(f"  ratio of runs per second: {ours.rate / floor.rate:.2f}\n")


async def submit(runtime: Runtime, count: int, not_before: datetime | None = None) -> None:
    numbers = iter(range(count))

    async def some() -> None:
        for _ in numbers:
            await runtime.services.runs.start_tool(OWNER, "nothing", {}, not_before=not_before)

    await asyncio.gather(*(some() for _ in range(8)))


async def all_done(control: Any, source: str, count: int) -> float:
    """Return the seconds between the first start and the last end."""
    while True:
        row = await control.fetchrow(f"{TIMES} {source}")
        if row["done"] == count:
            return row["seconds"]
        await asyncio.sleep(0.2)


async def latency(runtime: Runtime, control: Any, url: str, data_dir: Path) -> None:
    """Start runs one by one while nothing else happens; the bare loop looks every 20 ms."""
    async with processes([floor_command("jobs", url, "1")], {}):
        await control.execute("truncate jobs")
        for _ in range(IDLE):
            await control.execute("insert into jobs (status, input) values ('queued', '{}')")
            await asyncio.sleep(IDLE_SECONDS)
        await all_done(control, "from jobs", IDLE)
        floor = await waits(control, "from jobs")
    async with isthmus_workers(data_dir, 1):
        await control.execute("truncate runs cascade")
        for _ in range(IDLE):
            await submit(runtime, 1)
            await asyncio.sleep(IDLE_SECONDS)
        await all_done(control, "from runs", IDLE)
        ours = await waits(control, "from runs")
    print("Queue latency, idle: from the creation of a run to its claim")
    for name, values in (("bare, polled at 20 ms", floor), ("isthmus", ours)):
        print(f"  {name:24}p50 {at(values, 50):6.1f} ms   p99 {at(values, 99):6.1f} ms")
    print(f"  ratio of p50: {at(ours, 50) / at(floor, 50):.2f}\n")


async def waits(control: Any, source: str) -> list[float]:
    query = f"select extract(epoch from started_at - created_at)::float * 1000 {source} order by 1"
    return [row[0] for row in await control.fetch(query)]


async def stream(control: Any, data_dir: Path) -> None:
    """Follow a run over HTTP by `run_events`; the floor stores a row for each token."""
    await control.execute("truncate tokens")
    begun = time.perf_counter()
    for number in range(TOKENS // 10):
        await control.execute("insert into tokens values ($1, $2)", number, f"{number:>6}, ")
    rate = TOKENS / 10 / (time.perf_counter() - begun)
    size = await control.fetchval("select sum(pg_column_size(tokens.*)) from tokens")
    print("Streams of tokens of 8 characters, followed over HTTP by run_events")
    print(
        f"  {'a row for each token':24}{rate:8.0f} tokens/s   {size / TOKENS * 10:5.0f} bytes each"
    )
    port = free_port()
    environment = isthmus_environment(data_dir)
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http,
        running(isthmus_command("serve", "--port", str(port)), port, environment),
    ):
        for tokens, pace in ((TOKENS, 0), (PACED, PER_SECOND)):
            begun = time.perf_counter()
            run, wire, answers = await follow(http, port, tokens, pace)
            seconds = time.perf_counter() - begun
            told = await control.fetchrow(TOLD, run)
            name = f"isthmus, {pace} tokens/s" if pace else "isthmus, at full speed"
            print(
                f"  {name:24}{tokens / seconds:8.0f} tokens/s   {told['frames'] / seconds:5.1f} frames/s"
                f"   per 1,000 tokens: {told['bytes'] / tokens * 1000:.0f} bytes stored,"
                f" {wire / tokens * 1000:.0f} on the wire in {answers / tokens * 1000:.0f} answers"
            )
            if not pace:
                print(f"  ratio of tokens per second: {tokens / seconds / rate:.2f}")


async def follow(
    http: aiohttp.ClientSession, port: int, tokens: int, pace: int
) -> tuple[str, int, int]:
    """Start a run that tells tokens and read all its events; return it, the bytes and the answers."""
    wire = answers = 0

    async def call(name: str, **arguments: Any) -> dict[str, Any]:
        nonlocal wire, answers
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {
                "extensions": {"io.modelcontextprotocol/tasks": {}}
            },
            "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
        }
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": name, "arguments": arguments, "_meta": meta},
        }
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": name,
        }
        async with http.post(
            f"http://127.0.0.1:{port}/mcp", json=message, headers=headers
        ) as answer:
            wire += len(await answer.read())
            answers += 1
            reply = await answer.json()
            return reply["result"]

    task = await call("talk", tokens=tokens, per_second=pace)
    run, after, status = task["taskId"], 0, ""
    wire = answers = 0
    while status != "completed":
        page = (await call("run_events", run=run, after=after, wait_seconds=30))[
            "structuredContent"
        ]
        after, status = page["next_after"], "" if page["items"] else page["status"]
    return run, wire, answers


@asynccontextmanager
async def isthmus_workers(data_dir: Path, count: int) -> AsyncGenerator[list[int]]:
    command = isthmus_command("worker", "--concurrency", str(SLOTS))
    async with processes([command] * count, isthmus_environment(data_dir)) as pids:
        yield pids


@asynccontextmanager
async def processes(
    commands: Sequence[list[str]], environment: dict[str, str]
) -> AsyncGenerator[list[int]]:
    """Run processes that say on their first line that they are ready."""
    import os

    inherited = {name: value for name, value in os.environ.items() if "ISTHMUS_" not in name}
    started = [
        subprocess.Popen(
            command,
            env=inherited | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for command in commands
    ]
    try:
        for process in started:
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            assert "ready" in line, f"{process.args} did not start"
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def cpu(pids: Sequence[int]) -> float:
    return sum(cpu_seconds(pid) for pid in pids)


def at(values: Sequence[float], percent: int) -> float:
    return values[min(len(values) * percent // 100, len(values) - 1)]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    asyncio.run(main())
