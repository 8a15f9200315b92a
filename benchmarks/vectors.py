"""Recall and latency of a vector engine at shares of tenants and of filters, and what search through MCP adds.

PYTHONPATH=. uv run --group dev python benchmarks/vectors.py --engine postgresql|milvus --by tenant|filter [--count 100000]
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

from benchmarks.vector_world import SHARES, TENANTS, Cloud, Filled, fill
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
from mcp_server.storage.vectors.milvus import visible
from mcp_server.storage.vectors.milvus.engine import SCANNED, WIDEST_WALK
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


async def measured(filled: Filled, below: int, expected: str) -> str:
    """Return recall, p50 and p95 of a share as cells of a table."""
    recall = await filled.recall(range(QUESTIONS), below)
    spent = sorted(await times(lambda n: filled.search(n, below, 50)))
    p95 = spent[int(len(spent) * 0.95)]
    return f"{expected} | {recall:.3f} | {statistics.median(spent):.1f} | {p95:.1f} |"


async def by_which(filled: Filled, below: int, control: AsyncEngine) -> str:
    """Return what answers searches of a share: as PostgreSQL's statistics say, as our plan for Milvus does."""
    if filled.engine.name == "postgresql":
        return "HNSW" if await filled.walks(below) else "exact"
    async with control.connect() as tx:
        plan = await visible.plan(tx, filled.store, filled.query(0, below, 50))
    width = plan.width
    if plan.within and width.ef > WIDEST_WALK and width.admitted <= SCANNED:
        return "read and compared"
    return f"HNSW, ef {width.ef}"


HEAD = "| share | rows | searched by | recall@10 | p50 ms | p95 ms |\n|---|---|---|---|---|---|"


async def by_filter(filled: Filled, control: AsyncEngine) -> None:
    """Print recall and p50 for each share of the store that a filter leaves."""
    count = len(filled.cloud.vectors)
    print(
        f"\n{filled.engine.name}: a filter's share of one store of {count} vectors, k = 10\n{HEAD}"
    )
    for share, below in SHARES.items():
        which = await by_which(filled, below, control)
        cells = await measured(filled, below, which)
        print(f"| {share} | {count * below // 1000} | {cells}", flush=True)


async def by_tenant(parts: dict[str, Filled], control: AsyncEngine) -> None:
    """Print recall and p50 for each tenant's share of all vectors."""
    count = sum(len(filled.cloud.vectors) for filled in parts.values())
    [engine] = {filled.engine.name for filled in parts.values()}
    print(
        f"\n{engine}: a tenant's share of {count} vectors of {len(parts)} tenants, k = 10\n{HEAD}"
    )
    for share in TENANTS:
        filled = parts[share]
        which = await by_which(filled, 1000, control)
        cells = await measured(filled, 1000, which)
        print(f"| {share} | {len(filled.cloud.vectors)} | {cells}", flush=True)


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


async def tenant(control: AsyncEngine, name: str) -> str:
    async with control.begin() as tx:
        await tx.execute(text("select create_tenant(:name)"), {"name": name})
    return name


async def built(engine: VectorEngine, control: AsyncEngine, server: MilvusLite | None) -> str:
    """Return what was built when all that is to have an index has it."""
    if server is None:
        return await shards_built(control)
    # No flush of the engine's own may be in the way: it takes new rows only when they are idle.
    await engine._collections.flush(0, 0)  # type: ignore[attr-defined]  # noqa: SLF001
    return await segments_built(server)


async def shards_built(control: AsyncEngine) -> str:
    """Return when each store that is to have its own index has it; the engine may be at it already."""
    states = text(
        "select s.id, s.index_state, count(*) from vector_stores s"
        " join chunk_vectors v on v.store = s.id where s.engine = 'postgresql' group by s.id"
    )
    while True:
        await Shards(control).run()
        async with control.connect() as tx:
            rows = (await tx.execute(states)).all()
        if all(row[1] == "ready" for row in rows if row[2] > OWN_SHARD_CHUNKS):
            ready = sum(row[1] == "ready" for row in rows)
            return f"{ready} of {len(rows)} stores have an HNSW index, the others are small"
        await asyncio.sleep(0.5)


async def segments_built(server: MilvusLite) -> str:
    """Return when each segment of milvus-lite has its graph.

    Its `describe_index` says that all is finished at any time; the files beside the segments tell.
    """
    stable = 0
    while True:
        await asyncio.sleep(1)
        segments = {
            each.stem
            for each in server.folder.glob("data/**/*.parquet")
            if "data" in each.parent.name
        }
        graphs = {
            each.name.split(".")[0] for each in server.folder.glob("data/**/*.dense.hnsw.idx")
        }
        stable = stable + 1 if segments and segments <= graphs else 0
        if stable == 5:  # none is being merged
            return f"all of {len(segments)} segments have their graph"


async def of_engine(
    engine: VectorEngine,
    control: AsyncEngine,
    operations: Operations,
    wanted: argparse.Namespace,
    server: MilvusLite | None,
) -> None:
    cloud, name = Cloud.of(wanted.count), engine.name
    begun = time.perf_counter()
    if wanted.by == "tenant":
        parts = {
            share: await fill(control, engine, await tenant(control, f"t{n}-{name}"), "cloud", part)
            for n, (share, part) in enumerate(cloud.parts().items())
        }
    else:
        parts = {"all": await fill(control, engine, OWNER.tenant, f"cloud-{name}", cloud)}
    print(
        f"\n{name}: {wanted.count / (time.perf_counter() - begun):.0f} chunks/s written", flush=True
    )
    begun = time.perf_counter()
    what = await built(engine, control, server)
    print(f"{what}, after {time.perf_counter() - begun:.0f} s more", flush=True)
    if wanted.by == "tenant":
        await by_tenant(parts, control)
        return
    await by_filter(parts["all"], control)
    await through_mcp(parts["all"], control, operations)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--engine", choices=["postgresql", "milvus"], default="postgresql")
    parser.add_argument("--by", choices=["tenant", "filter"], default="tenant")
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
            server = stack.enter_context(MilvusLite()) if wanted.engine == "milvus" else None
            async with open_vectors(server and server.url, control) as engine:
                await of_engine(engine, control, operations, wanted, server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
