"""Processes that die in the middle of writes to Milvus: `python -m tests.contract.vectors.victim CONTROL MILVUS TENANT LOG`.

Everything is imported once, and each victim is a fork. A line of stdin is a JSON list of jobs, done at once:
`["POINT", "WHEN", COUNT, NUMBER]` replaces document NUMBER, collects and flushes, and dies WHEN (before, after) at
the COUNTth pass of POINT; `["random", SECONDS, FIRST, LAST]` does so with documents FIRST to LAST over and over,
and dies some time after its first. The answer is the list of their ends: 9 if killed. A write that was
answered is told in LOG.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from mcp_server.audit import Audit
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.services.vectors import VectorService, service
from mcp_server.services.vectors.drafts import WriteDraft
from mcp_server.services.vectors.indexing import Indexer
from mcp_server.storage.sql.control import open_pool
from mcp_server.storage.vectors.milvus import engine as milvus
from mcp_server.storage.vectors.milvus import garbage
from mcp_server.storage.vectors.milvus.client import Collections
from mcp_server.storage.vectors.milvus.engine import MilvusVectors
from tests.contract.vectors.hashed_words import HashedWords
from tests.contract.vectors.milvus_world import without_keeper
from tests.contract.vectors.reading import LONG

# Where a write may end, in its order, with whether the new version is there then: the commit decides.
POINTS: dict[str, tuple[Any, str, bool]] = {
    "draw": (Indexer, "draw", False),
    "prepare": (MilvusVectors, "prepare", False),
    "note": (garbage, "put", False),
    "insert": (Collections, "insert", False),
    "retract": (MilvusVectors, "retract", False),
    "publish": (MilvusVectors, "publish", False),
    "keep": (garbage, "keep", False),
    "apply": (WriteDraft, "apply", False),
    "commit": (service, "carry_out", True),
    "flush": (Collections, "flush", True),
    "take": (garbage, "take", True),
    "delete": (Collections, "delete", True),
    "forget": (garbage, "forget", True),
}
# Nothing happens between these and the step before them.
SAME = {("note", "before"), ("keep", "before"), ("apply", "before"), ("forget", "before")}
STEPS: list[tuple[str, str, int]] = [
    *(
        (point, when, 1)
        for point in POINTS
        for when in ("before", "after")
        if (point, when) not in SAME
    ),
    *(("insert", "before", count) for count in (2, 3)),
    ("note", "after", 2),  # of what is replaced, in the transaction that replaces it
]
COLLECTING = {"take", "delete", "forget"}
# An insert of several parts.
ROWS_AT_ONCE = 2


def is_there(point: str, when: str) -> bool:
    """Tell whether the new version is there after a death at this point."""
    return POINTS[point][2] and (point, when) != ("commit", "before")


def new_text(number: int, turn: int = 0) -> str:
    return f"new{number} turn{turn} {LONG}"


def break_point(point: str, when: str, count: int) -> None:
    """End this process at the point when it is passed for the `count`th time."""
    owner, name, _ = POINTS[point]
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)
    passed = {"before": 0, "after": 0}

    def perhaps(at: str) -> None:
        passed[at] += 1
        if at == when and passed[at] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(original)
    async def call(*args: Any, **kwargs: Any) -> Any:
        perhaps("before")
        result = await original(*args, **kwargs)
        perhaps("after")
        return result

    setattr(owner, name, call)


class Victim:
    """One child."""

    def __init__(self, control: str, url: str, tenant: str, log: str) -> None:
        self.control, self.url, self.log = control, url, Path(log)
        self.who = Principal(tenant, "victim", OWNER_SCOPES)

    async def live(self, job: list[Any]) -> None:
        milvus.INSERT_BATCH = ROWS_AT_ONCE
        milvus.FLUSH_ROWS = 0
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(open_pool(self.control, pool_size=2, overflow=2))
            engine = await stack.enter_async_context(without_keeper(self.url, pool))
            vectors = VectorService(
                Operations(Limits(), Audit()), pool, engine, HashedWords(), undo_days=7
            )
            if job[0] == "random":
                await self.go_on(vectors, engine, *job[1:])
                return
            break_point(*job[:3])
            await self.write(vectors, engine, job[3], 0)

    async def write(
        self, vectors: VectorService, engine: MilvusVectors, number: int, turn: int
    ) -> None:
        await vectors.add(
            self.who, "s", new_text(number, turn), document=f"d{number}", metadata={"n": number}
        )
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{number} {turn}\n")
        await engine.flush()
        await engine.collect()

    async def go_on(
        self, vectors: VectorService, engine: MilvusVectors, seconds: float, first: int, last: int
    ) -> None:
        """Each turn writes every document once more; the process is killed at no point of ours."""
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        for turn in range(1_000_000):
            for number in range(first, last + 1):
                await self.write(vectors, engine, number, turn)


def main() -> None:
    victim = Victim(*sys.argv[1:5])
    for line in sys.stdin:
        pids: list[int] = []
        for job in json.loads(line):
            pid = os.fork()
            if pid == 0:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(2, 1)
                code = 1
                try:
                    asyncio.run(victim.live(job))
                    code = 0
                finally:
                    os._exit(code)
            pids.append(pid)
        ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps([abs(end) for end in ends]), flush=True)


if __name__ == "__main__":
    main()
