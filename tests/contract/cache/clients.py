"""Clients that write down what they ask and hear; as a program, one process of them."""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from mcp_server.audit import Audit
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.errors import AppError, Conflict, NotFound
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.services.kv import KvService
from mcp_server.services.kv.items import VersionConflict
from mcp_server.storage.cache.redis import open_redis
from mcp_server.storage.sql.control import open_pool
from tests.contract.cache.linearize import Done

TTL = 0.1
KEYS = ("a", "b")
Record = Callable[[str, Done], None]


class Client:
    """Asks one thing after the other until it is told to end; `dice` chooses and delays."""

    def __init__(
        self, kv: KvService, who: Principal, namespace: str, dice: random.Random, record: Record
    ) -> None:
        self.kv, self.dice, self.record = kv, dice, record
        self.at = (who, namespace)
        self.seen = dict.fromkeys(KEYS, 0)
        self.token: int | None = None

    async def note(self, on: str, name: str, given: Any, asked: Any) -> Any:
        """Write down one call; None if nobody knows what became of it."""
        begin = time.monotonic_ns()
        try:
            got = await asked
        except AppError:
            self.record(on, Done(begin, math.inf, name, given, None))
            return None
        self.record(on, Done(begin, time.monotonic_ns(), name, given, got))
        return got

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(self.dice.random() * 0.01)
            await (self.use_lease() if self.dice.random() < 0.5 else self.use_register())

    async def use_register(self) -> None:
        key = self.dice.choice(KEYS)
        choice = self.dice.choice(["read", "write", "cas", "cas", "cas", "delete"])
        if choice == "read":
            got = await self.note(key, "read", None, self.read(key))
            self.seen[key] = got[1] if got else 0
        elif choice == "delete":
            await self.note(key, "delete", None, self.delete(key))
        else:
            expected = None if choice == "write" else self.seen[key]
            value = self.dice.getrandbits(60)
            got = await self.note(key, "write", [value, expected], self.write(key, value, expected))
            self.seen[key] = got[1] if got else 0

    async def use_lease(self) -> None:
        if self.token is None:
            self.token = await self.note("lease", "acquire", None, self.acquire())
            return
        choice = self.dice.choice(["fenced", "fenced", "fenced", "renew", "release"])
        if self.dice.random() < 0.1:  # slow: the lease may run out before it goes on
            await asyncio.sleep(TTL * 2 * self.dice.random())
        held = await self.note("lease", choice, self.token, getattr(self, choice)(self.token))
        if choice == "release" or not held:
            self.token = None

    async def read(self, key: str) -> list[Any]:
        try:
            item = await self.kv.get(*self.at, key)
        except NotFound:
            return [None, 0]
        return [item["value"], item["version"]]

    async def write(self, key: str, value: Any, expected: int | None) -> list[Any]:
        try:
            item = await self.kv.set(*self.at, key, value, expected_version=expected)
        except VersionConflict as error:
            return [False, error.current]
        return [True, item["version"]]

    async def delete(self, key: str) -> bool:
        return (await self.kv.delete(*self.at, key))["deleted"]

    async def acquire(self) -> int | None:
        return (await self.kv.lease(*self.at, "lease", TTL))["token"]

    async def renew(self, token: int) -> bool:
        return (await self.kv.lease(*self.at, "lease", TTL, token=token))["acquired"]

    async def release(self, token: int) -> bool:
        return (await self.kv.release(*self.at, "lease", token))["released"]

    async def fenced(self, token: int) -> bool:
        try:
            await self.kv.set(*self.at, "fenced", token, fence=token)
        except Conflict:
            return False
        return True


async def main(control_url: str, redis_url: str, tenant: str, namespace: str, seed: str) -> None:
    def tell(on: str, done: Done) -> None:
        end = done.end if done.known else None
        print(json.dumps([on, done.begin, end, done.name, done.given, done.got]), flush=True)

    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(open_pool(control_url, pool_size=2, overflow=0))
        cache = await stack.enter_async_context(open_redis(redis_url))
        kv = KvService(Operations(Limits(), Audit()), control, cache=cache)
        who = Principal(tenant, "client", OWNER_SCOPES)
        await kv.get_many(who, namespace, ["warm"])
        print("ready", flush=True)
        until = time.monotonic() + float(sys.stdin.readline())
        dice = [random.Random(f"{seed}.{number}") for number in range(2)]
        clients = [Client(kv, who, namespace, own, tell) for own in dice]
        await asyncio.gather(*(client.run(until) for client in clients))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
