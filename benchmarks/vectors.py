"""Filtered recall and latency of both vector engines, and what search through MCP adds to the engine's own call.

uv run --group dev python benchmarks/vectors.py [--count 100000] [--engine postgresql|milvus]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mcp.server.subscriptions import InMemorySubscriptionBus
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.vector_world import SHARES, Cloud, Filled, fill
from mcp_server import journal
from mcp_server.audit import Audit
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.bus import Bus
from mcp_server.bus_in_process import InProcess
from mcp_server.declarations import declare
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.plugins import load_plugins
from mcp_server.server import IsthmusServer
from mcp_server.services.vectors import VectorService
from mcp_server.services.vectors.results import Choice, best_passages
from mcp_server.storage.sql.control import open_control
from mcp_server.storage.sql.embedded import open_cluster
from mcp_server.storage.vectors import Query, VectorEngine, open_vectors
from mcp_server.storage.vectors.postgresql.shards import OWN_SHARD_CHUNKS, Shards
from tests.servers.milvus import MilvusLite

QUESTIONS = 50
OWNER = Principal("default", "benchmark", OWNER_SCOPES)


class Asked:
    """An embedder without a model: a query is the number of a question of the cloud."""

    model = "cloud"

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.dimensions = cloud.asked.shape[1]

    async def embed(self, texts: Any) -> list[list[float]]:
        return [self._cloud.asked[int(each)].tolist() for each in texts]


async def times(call: Callable[[int], Awaitable[Any]], count: int = QUESTIONS) -> list[float]:
    """Return the milliseconds of calls, one after the other."""
    spent: list[float] = []
    for number in range(count):
        begun = time.perf_counter()
        await call(number)
        spent.append((time.perf_counter() - begun) * 1000)
    return spent


async def table(filled: Filled) -> None:
    """Print recall and p50 for each share of the store that a filter leaves."""
    print(f"\n{filled.engine.name}, {len(filled.cloud.vectors)} vectors of 128 dimensions, k = 10")
    print("| share | recall@10 | p50 ms | p95 ms |\n|---|---|---|---|")
    for share, below in SHARES.items():
        recall = await filled.recall(range(QUESTIONS), below)
        spent = sorted(await times(lambda n, at=below: filled.search(n, at, 50)))
        p95 = spent[int(len(spent) * 0.95)]
        print(
            f"| {share} | {recall:.3f} | {statistics.median(spent):.1f} | {p95:.1f} |", flush=True
        )


async def through_mcp(filled: Filled, control: AsyncEngine, operations: Operations) -> None:
    """Print a search as an MCP call in process against the same call of the engine."""
    vectors = VectorService(operations, control, filled.engine, Asked(filled.cloud))
    services: Any = SimpleNamespace(vectors=vectors)
    server = IsthmusServer(
        declare(load_plugins()),
        services,
        operations,
        secret=bytes(32),
        bus=InMemorySubscriptionBus(),
    )
    bus = Bus(InProcess(server))
    finish = best_passages(filled.store, Choice("dense", 10))

    async def direct(number: int) -> None:
        query = Query(50, filled.cloud.asked[number].tolist())
        await filled.engine.search(filled.store, query, finish)

    async def called(number: int) -> None:
        arguments = {"store": filled.store.name, "query": str(number), "mode": "dense"}
        answer = await bus.call(OWNER, "vector_search", arguments)
        assert not answer.is_error, answer.text

    rounds = [(await times(direct), await times(called)) for _ in range(3)]
    own = statistics.median(value for each, _ in rounds for value in each)
    ours = statistics.median(value for _, each in rounds for value in each)
    print(f"through MCP {ours:.1f} ms, the engine's call {own:.1f} ms: ratio {ours / own:.2f}")


async def neighbours(
    quiet: Filled, loud: Filled, control: AsyncEngine, operations: Operations
) -> None:
    """Print the p99 of one tenant's searches while another saturates search."""
    vectors = VectorService(operations, control, quiet.engine, Asked(quiet.cloud))
    guest = Principal(quiet.store.tenant, "guest", OWNER_SCOPES)

    async def ask(who: Principal, number: int) -> None:
        name = quiet.store.name if who is guest else loud.store.name
        await vectors.search(who, name, str(number % QUESTIONS), mode="dense")

    alone = sorted(await times(lambda n: ask(guest, n), 300))
    asked = 0

    async def saturate() -> None:
        nonlocal asked
        while True:
            await ask(OWNER, asked)
            asked += 1

    async with asyncio.TaskGroup() as group:
        crowd = [group.create_task(saturate()) for _ in range(32)]
        beside = sorted(await times(lambda n: ask(guest, n), 300))
        for each in crowd:
            each.cancel()
    before, after = alone[297], beside[297]
    print(
        f"p99 alone {before:.1f} ms, beside 32 loops of another tenant {after:.1f} ms: ratio {after / before:.2f}"
    )
    medians = statistics.median(alone), statistics.median(beside)
    print(
        f"p50 alone {medians[0]:.1f} ms, beside them {medians[1]:.1f} ms; they had {asked} answers"
    )


async def indexed(control: AsyncEngine, filled: Filled) -> None:
    """Return when the store has its own index, if it is to have one; the engine may be at it already."""
    if len(filled.rows) <= OWN_SHARD_CHUNKS:
        return
    state = text("select index_state from vector_stores where id = :id")
    while True:
        await Shards(control).run()
        async with control.connect() as tx:
            if await tx.scalar(state, {"id": filled.store.id}) == "ready":
                return
        await asyncio.sleep(0.5)


async def of_engine(
    engine: VectorEngine, control: AsyncEngine, operations: Operations, count: int
) -> None:
    begun = time.perf_counter()
    filled = await fill(control, engine, OWNER.tenant, f"cloud-{engine.name}", Cloud.of(count))
    print(
        f"\n{engine.name}: {count / (time.perf_counter() - begun):.0f} chunks/s written", flush=True
    )
    begun = time.perf_counter()
    if engine.name == "postgresql":
        await indexed(control, filled)
    else:
        await engine.flush()  # type: ignore[attr-defined]
        await asyncio.sleep(count / 1000)  # milvus-lite builds its index by itself
    print(f"indexed in {time.perf_counter() - begun:.0f} s", flush=True)
    await table(filled)
    await through_mcp(filled, control, operations)
    guest = f"guest-{engine.name}"
    async with control.begin() as tx:
        await tx.execute(text("select create_tenant(:name)"), {"name": guest})
    small = await fill(control, engine, guest, f"small-{engine.name}", Cloud.of(1000))
    await neighbours(small, filled, control, operations)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--engine", choices=["postgresql", "milvus"], action="append")
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="isthmus-benchmark-"))
    folder.chmod(0o755)
    try:
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(open_cluster(folder))
            control = await stack.enter_async_context(open_control(cluster.control_url))
            await journal.ensure_partitions(control)
            audit = Audit()
            await stack.enter_async_context(audit.writing(control))
            operations = Operations(Limits(), audit)
            for name in wanted.engine or ["postgresql", "milvus"]:
                url = None
                if name == "milvus":
                    url = stack.enter_context(MilvusLite()).url
                async with open_vectors(url, control) as engine:
                    await of_engine(engine, control, operations, wanted.count)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
