"""Thousands of short runs of which one tenant starts nearly all, and thousands that wait for an answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from sqlalchemy import text

from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import load_settings
from tests.e2e.processes import LONG, environment

FLOOD, WAITING = (10_000, 10_000) if LONG else (1_000, 500)
# The other tenant's runs: so many before the flood, then on and on until it is over.
QUIET, QUIET_PER_SECOND = (300, 15) if LONG else (30, 15)
WORKERS, SLOTS = 2, 8
# While a quiet run waits, the flood may get as many places as the quiet tenant does, and what both workers
# claim while the run is being stored and its wake-up is on the way: a few claims of half their places.
OVERTAKEN = 10 * WORKERS * SLOTS // 2
GROWTH_BYTES = 25_000_000
MOST_CONNECTIONS = 20
SAMPLE = 50
PLUGINS = Path(__file__).parent / "flood"

RUNS = text(
    """
    select id, tenant, status, attempt, retries, lease, last_seq, output, created_at, started_at
    from runs where kind = :kind order by started_at
    """
)
EVENTS = text(
    """
    select run, array_agg(first_seq order by first_seq) as first,
        array_agg(last_seq order by first_seq) as last,
        string_agg(events, '' order by first_seq) as events
    from run_events group by run
    """
)
ENDS = text("select run, count(*) as ends from journal where verb = 'completed' group by run")
STATUSES = text("select status, count(*) as number from runs where kind = :kind group by status")
LEASED = text("select count(*) from runs where lease is not null")
CONNECTIONS = text("select count(*) from pg_stat_activity where backend_type = 'client backend'")


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


@asynccontextmanager
async def flooded(
    data_dir: Path, workers: list[subprocess.Popen[str]]
) -> AsyncGenerator[tuple[Runtime, Principal, Principal]]:
    """Yield a process without a worker beside two that are nothing else, and two tenants' owners."""
    settings = load_settings(
        data_dir=data_dir, llm_url=("scripted:",), plugins=(PLUGINS,), auth="off"
    )
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime(settings, concurrency=0))
        tenants = ("flood", "quiet")
        async with runtime.engines.control.begin() as tx:
            for tenant in tenants:
                await tx.execute(text("select create_tenant(:tenant)"), {"tenant": tenant})
        workers.extend(_worker(data_dir) for _ in range(WORKERS))
        for process in workers:
            assert process.stdout is not None
            with anyio.fail_after(60):
                assert "ready" in await asyncio.to_thread(process.stdout.readline)
        flood, quiet = (Principal(tenant, "tester", OWNER_SCOPES) for tenant in tenants)
        yield runtime, flood, quiet


def _worker(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mcp_server", "worker", "--concurrency", str(SLOTS)],
        env=environment(data_dir, PLUGINS=str(PLUGINS), AUTH="off"),
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(1800)
async def test_a_flood_loses_no_run_and_does_not_hide_another_tenants(
    data_dir: Path, workers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    log = tmp_path / "done"
    async with flooded(data_dir, workers) as (runtime, flood, quiet):
        start = runtime.services.runs.start_tool
        calm = await steadily(runtime, quiet, log, range(QUIET))
        begun = time.monotonic()
        over = asyncio.Event()
        steady = asyncio.create_task(steadily(runtime, quiet, log, range(QUIET, 10**9), over))
        numbers = iter(range(FLOOD))

        async def submit() -> None:
            for number in numbers:
                await start(flood, "short", {"number": -1 - number, "log": str(log)})

        await asyncio.gather(*(submit() for _ in range(8)))
        submitted = time.monotonic() - begun
        early = await memory_once(runtime, workers, FLOOD // 5)
        await completed(runtime, FLOOD)
        seconds = time.monotonic() - begun
        over.set()
        stormy = await steady
        await completed(runtime, FLOOD + len(calm) + len(stormy))
        late = memory(workers)
        rows = await fetch(runtime, RUNS, kind="tool/short")
        calls = Counter(log.read_text(encoding="utf-8").split())
        wrong = [problem async for problem in check(runtime, rows, calls)]
    quick, slow = latencies(rows, calm), latencies(rows, stormy)
    overtaken = overtakings(rows, set(stormy))
    print(f"\n{FLOOD} runs submitted in {submitted:.1f} s, {FLOOD / seconds:.0f} runs/s to the end")
    for name, found in (("alone", quick), ("in the flood", slow)):
        print(
            f"quiet {name}: {len(found)} runs, p50 {at(found, 50):.1f} p99 {at(found, 99):.1f} ms"
        )
    print(f"ratio: p50 {at(slow, 50) / at(quick, 50):.2f}, p99 {at(slow, 99) / at(quick, 99):.2f}")
    print(f"more of the flood before a quiet run: p50 {at(overtaken, 50)}, most {max(overtaken)}")
    print(f"memory of the workers in MB, after a fifth and at the end: {mb(early)} {mb(late)}")
    assert wrong == []
    assert {row.tenant for row in rows} == {"flood", "quiet"}
    assert max(overtaken) <= OVERTAKEN
    assert late - early < WORKERS * GROWTH_BYTES


async def steadily(
    runtime: Runtime,
    quiet: Principal,
    log: Path,
    numbers: Sequence[int],
    over: asyncio.Event | None = None,
) -> list[str]:
    """Start runs at an even pace until the numbers or the flood end; return them."""
    clock = asyncio.get_running_loop().time
    begun, started = clock(), list[str]()
    for number in numbers:
        if over is not None and over.is_set():
            break
        arguments = {"number": number, "log": str(log)}
        item = await runtime.services.runs.start_tool(quiet, "short", arguments)
        started.append(item["run"])
        await asyncio.sleep(max(begun + len(started) / QUIET_PER_SECOND - clock(), 0))
    return started


async def check(runtime: Runtime, rows: Sequence[Any], calls: Counter[str]) -> AsyncGenerator[str]:
    """Yield whatever shows that a run was lost, done twice or told otherwise than it was."""
    if len(calls) != len(rows):
        yield f"{len(rows)} runs, {len(calls)} numbers"
    for number, count in calls.items():
        if count != 1:
            yield f"number {number} was done {count} times"
    told = {row.run: row for row in await fetch(runtime, EVENTS)}
    ends = {row.run: row.ends for row in await fetch(runtime, ENDS)}
    for row in rows:
        if (row.status, row.attempt, row.retries, row.lease) != ("completed", 1, 0, None):
            yield f"{row.id}: {row.status} at attempt {row.attempt}"
        if ends.get(row.id) != 1:
            yield f"{row.id}: the journal tells {ends.get(row.id)} ends"
        frames = told[row.id]
        if [1, *(last + 1 for last in frames.last[:-1])] != list(frames.first):
            yield f"{row.id}: frames {frames.first} {frames.last}"
        if frames.last[-1] != row.last_seq or frames.events.count("completed") != 1:
            yield f"{row.id}: {frames.events}"


@pytest.mark.timeout(1800)
async def test_runs_that_wait_hold_no_lease_no_connection_and_no_memory(
    data_dir: Path, workers: list[subprocess.Popen[str]]
) -> None:
    async with flooded(data_dir, workers) as (runtime, owner, _):
        runs: list[str] = []

        async def submit(numbers: Sequence[int]) -> None:
            for number in numbers:
                item = await runtime.services.runs.start_tool(owner, "asking", {"number": number})
                runs.append(item["run"])

        few = WAITING // 5
        await asyncio.gather(*(submit(range(part, few, 8)) for part in range(8)))
        await settled(runtime, few)
        connections, early = (await fetch(runtime, CONNECTIONS))[0][0], memory(workers)
        await asyncio.gather(*(submit(range(few + part, WAITING, 8)) for part in range(8)))
        await settled(runtime, WAITING)
        connections_late, late = (await fetch(runtime, CONNECTIONS))[0][0], memory(workers)
        leased = (await fetch(runtime, LEASED))[0][0]
        sample = runs[:: WAITING // SAMPLE]
        await asyncio.gather(*(runtime.services.runs.input(owner, run, 1) for run in sample))
        with anyio.fail_after(60):
            while (await statuses(runtime, "tool/asking")).get("completed", 0) < len(sample):
                await asyncio.sleep(0.05)
        answered = [await runtime.services.runs.get(owner, run) for run in sample]
        left = await statuses(runtime, "tool/asking")
    print(f"\n{WAITING} waiting runs: {leased} leased")
    print(f"connections with {few} and all: {connections} {connections_late}")
    print(f"memory of the workers in MB: {mb(early)} {mb(late)}")
    assert leased == 0
    # A pool may have grown by a few, up to its size; thousands of runs more cost none.
    assert connections_late - connections <= MOST_CONNECTIONS
    assert late - early < WORKERS * GROWTH_BYTES
    assert all(not run["output"]["is_error"] for run in answered)
    assert left == {"completed": len(sample), "input_required": WAITING - len(sample)}


async def settled(runtime: Runtime, count: int) -> None:
    with anyio.fail_after(900):
        while (await statuses(runtime, "tool/asking")).get("input_required", 0) < count:
            await asyncio.sleep(0.1)


async def completed(runtime: Runtime, count: int) -> None:
    with anyio.fail_after(900):
        while (await statuses(runtime, "tool/short")).get("completed", 0) < count:
            await asyncio.sleep(0.1)


async def memory_once(runtime: Runtime, workers: list[subprocess.Popen[str]], count: int) -> int:
    await completed(runtime, count)
    return memory(workers)


async def statuses(runtime: Runtime, kind: str) -> dict[str, int]:
    return {row.status: row.number for row in await fetch(runtime, STATUSES, kind=kind)}


async def fetch(runtime: Runtime, query: Any, **given: Any) -> Sequence[Any]:
    async with runtime.engines.control.connect() as connection:
        return (await connection.execute(query, given)).all()


def memory(workers: list[subprocess.Popen[str]]) -> int:
    """Bytes of physical memory that the workers hold together."""
    return sum(psutil.Process(process.pid).memory_info().rss for process in workers)


def mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def latencies(rows: Sequence[Any], runs: Sequence[str]) -> list[float]:
    """Milliseconds between the creation and the claim of each run, in order."""
    wanted = set(runs)
    return sorted(
        (row.started_at - row.created_at).total_seconds() * 1000 for row in rows if row.id in wanted
    )


def overtakings(rows: Sequence[Any], runs: set[str]) -> list[int]:
    """For each quiet run, how many more of the flood than of its own tenant were claimed while it waited.

    It counts claims, not time: a machine that is too slow for the quiet tenant alone changes nothing.
    """
    claims = {
        tenant: sorted(row.started_at for row in rows if row.tenant == tenant)
        for tenant in ("flood", "quiet")
    }

    def between(tenant: str, row: Any) -> int:
        times = claims[tenant]
        return bisect_left(times, row.started_at) - bisect_right(times, row.created_at)

    return sorted(between("flood", row) - between("quiet", row) for row in rows if row.id in runs)


def at(values: Sequence[float], percent: int) -> float:
    return values[min(len(values) * percent // 100, len(values) - 1)]
