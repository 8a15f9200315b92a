"""Processes that die in the middle of units of work: `python -m tests.contract.units.victim CONTROL DATA FOLDER TENANT LOG`.

Everything is imported once, and each victim is a fork. A line of stdin is `POINT WHEN NUMBER`: the
child writes unit NUMBER and kills itself WHEN (before, after) at POINT; or `random SHARE SEED FIRST COUNT`: it
writes COUNT units one after the other and dies with the probability SHARE at each point; or `recover SHARE SEED`:
it settles what others left, and may die as well. The answer is the pid; a unit that was written is told in LOG.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from mcp_server.audit import Audit
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.errors import AppError
from mcp_server.limits import Limits
from mcp_server.operation import Operation, Operations
from mcp_server.services.objects.drafts import WriteDraft
from mcp_server.services.units import intent, recovery
from mcp_server.services.units.commit import Commit, Together
from mcp_server.services.units.parts import OpenedPart
from mcp_server.services.units.recovery import Recovery
from mcp_server.services.vectors.drafts import WriteDraft as DocumentDraft
from mcp_server.storage.sql.control import open_pool
from mcp_server.storage.sql.postgresql import open_postgresql
from mcp_server.storage.sql.tenant_unit import TenantUnit, TenantUnits
from mcp_server.storage.sql.wire import Session
from tests.conftest import SECRET
from tests.contract.units.world import World, open_world

# Where a unit, or its recovery, may end: each step before and after its own transaction's statements.
POINTS: dict[str, tuple[Any, str]] = {
    "upload": (WriteDraft, "prepare"),
    "embed": (DocumentDraft, "prepare"),
    "statement": (TenantUnit, "run"),
    "constraints": (TenantUnit, "ready"),
    "replay": (Operation, "replay"),
    "part": (OpenedPart, "apply"),
    "apply": (Together, "apply"),
    "intent": (Commit, "_store"),
    "take": (intent, "take_away"),
    "mark": (Session, "scalar"),
    "tenant commit": (TenantUnit, "commit"),
    "control commit": (Commit, "_both"),
}
RECOVERY_POINTS: dict[str, tuple[Any, str]] = {
    "decide": (TenantUnits, "settle"),
    "recovered part": (OpenedPart, "apply"),
    "recovered take": (intent, "take_away"),
    "finish": (Recovery, "_finish"),
}
RETRIES = 200


def everything(number: int) -> dict[str, Any]:
    """A unit that makes, overwrites and deletes; what it needs, the test has made."""
    return {
        "rows": [
            {"sql": "insert into t values ($1)", "params": [number]},
            {"sql": "delete from gone where a = $1", "params": [number]},
        ],
        "keys": [
            {"key": f"k{number}", "value": number, "expected_version": 0},
            {"key": f"over{number}", "value": number},
        ],
        "objects": [
            {"key": f"o{number}", "text": f"text {number}"},
            {"key": f"gone{number}", "delete": True},
        ],
        "documents": [
            {"store": "s", "document": f"d{number}", "text": f"words {number}"},
            {"store": "s", "document": f"gone{number}", "delete": True},
        ],
    }


def break_points(points: dict[str, tuple[Any, str]], dies: Callable[[str, str], bool]) -> None:
    """End this process at each point at which `dies` says so."""

    def fragile(original: Callable[..., Awaitable[Any]], point: str) -> Callable[..., Any]:
        def perhaps(when: str) -> None:
            if dies(point, when):
                os.kill(os.getpid(), signal.SIGKILL)

        @functools.wraps(original)
        async def call(*args: Any, **kwargs: Any) -> Any:
            perhaps("before")
            result = await original(*args, **kwargs)
            perhaps("after")
            return result

        return call

    for point, (owner, name) in points.items():
        setattr(owner, name, fragile(getattr(owner, name), point))


class Victim:
    """One child."""

    def __init__(self, control: str, data: str, folder: str, tenant: str, log: str) -> None:
        self.urls = control, data
        self.folder, self.log = Path(folder), Path(log)
        self.who = Principal(tenant, "victim", OWNER_SCOPES)

    async def world(self, stack: AsyncExitStack) -> World:
        pool = await stack.enter_async_context(open_pool(self.urls[0], pool_size=4, overflow=4))
        engine = await stack.enter_async_context(
            open_postgresql(self.urls[1], SECRET, connections=4)
        )
        operations = Operations(Limits(), Audit())
        return await stack.enter_async_context(open_world(pool, operations, engine, self.folder))

    async def write(self, number: int) -> None:
        async with AsyncExitStack() as stack:
            world = await self.world(stack)
            await world.units.write_together(self.who, **everything(number))
            self.tell(number)

    async def write_many(self, first: int, count: int) -> None:
        """Write units under keys of their own, each tried until it has an answer."""
        async with AsyncExitStack() as stack:
            world = await self.world(stack)
            for number in range(first, first + count):
                for _ in range(RETRIES):
                    try:
                        await world.units.write_together(
                            self.who, **everything(number), idempotency_key=f"unit {number}"
                        )
                    except AppError as error:
                        if not error.retryable:
                            raise
                        await asyncio.sleep(0.05)
                    else:
                        self.tell(number)
                        break

    async def recover(self) -> None:
        async with AsyncExitStack() as stack:
            world = await self.world(stack)
            await world.recovery.sweep()

    def tell(self, number: int) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{number}\n")

    async def live(self, line: list[str]) -> None:
        intent.STALE_SECONDS = 0.0
        recovery.EVERY_SECONDS = 0.2
        if line[0] in {"random", "recover"}:
            share, dice = float(line[1]), random.Random(int(line[2]))
            break_points(POINTS | RECOVERY_POINTS, lambda *_: dice.random() < share)
            if line[0] == "recover":
                await self.recover()
            else:
                await self.write_many(int(line[3]), int(line[4]))
            return
        point, when, number = line[0].replace("_", " "), line[1], int(line[2])
        chosen = POINTS if point in POINTS else RECOVERY_POINTS
        if point in chosen:
            break_points({point: chosen[point]}, lambda _, at: at == when)
        if number < 0:
            await self.recover()
        else:
            await self.write(number)


def main() -> None:
    victim = Victim(*sys.argv[1:6])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            code = 1
            try:
                asyncio.run(victim.live(line.split()))
                code = 0
            finally:
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
