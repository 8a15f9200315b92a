"""Compare-and-set and leases happen one after the other, whoever stands still meanwhile; and the check can fail."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import sys
import time
import uuid
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.kv import KvService
from mcp_server.storage.sql.embedded import Cluster
from tests.contract.cache.clients import KEYS, TTL, Client
from tests.contract.cache.conftest import Kind
from tests.contract.cache.linearize import Done, lease, linearizable, register
from tests.servers.valkey import Valkey

LONG = os.environ.get("TEST_LENGTH") == "long"
SECONDS = 30.0 if LONG else 2.0
PROCESSES = 3
EMPTY: dict[str, Any] = {"lease": (lease, (0, False))} | dict.fromkeys(KEYS, (register, (None, 0)))

Histories = dict[str, list[Done]]


def faults(histories: Histories) -> list[str]:
    """Return what did not happen one after the other."""
    return [
        on for on, (step, state) in EMPTY.items() if not linearizable(histories[on], step, state)
    ]


def counted(histories: Histories) -> dict[str, int]:
    """Return how often what the check is about happened."""
    calls = [done for history in histories.values() for done in history]
    return {
        "cas won": sum(
            done.name == "write" and done.given[1] is not None and done.got[0] for done in calls
        ),
        "cas lost": sum(done.name == "write" and not done.got[0] for done in calls),
        "tokens": sum(done.name == "acquire" and done.got is not None for done in calls),
        "fenced": sum(done.name == "fenced" and done.got for done in calls),
        "fenced off": sum(done.name == "fenced" and not done.got for done in calls),
    }


async def asked(
    kv: KvService, who: Principal, namespace: str, seconds: float, client: type[Client] = Client
) -> Histories:
    histories: Histories = defaultdict(list)
    clients = [
        client(
            kv, who, namespace, random.Random(number), lambda on, done: histories[on].append(done)
        )
        for number in range(4)
    ]
    until = time.monotonic() + seconds
    await asyncio.gather(*(each.run(until) for each in clients))
    return histories


async def test_calls_of_one_process_happen_one_after_the_other(
    kind: Kind, principal: Principal
) -> None:
    histories: Histories = defaultdict(list)
    async with asyncio.timeout(SECONDS + 60):
        while not histories or min(counted(histories).values()) == 0:
            for on, calls in (await asked(kind.kv, principal, kind.namespace, SECONDS)).items():
                histories[on] += calls
    assert faults(histories) == []


@pytest.mark.parametrize("kind", ["durable", "redis"])
async def test_processes_that_stand_still_do_not_come_between(
    cluster: Cluster, control: AsyncEngine, principal: Principal, valkey: Valkey, kind: str
) -> None:
    namespace = f"{'' if kind == 'durable' else 'cache/'}n{uuid.uuid4().hex}"
    given = (cluster.control_url, valkey.url, principal.tenant, namespace)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contract.cache.clients", *given, str(number)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        for number in range(PROCESSES)
    ]
    try:
        async with asyncio.timeout(SECONDS + 60):
            for process in processes:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ready\n"
            talks = asyncio.gather(*(each.communicate(b"%f\n" % SECONDS) for each in processes))
            await pause_now_and_then(processes, time.monotonic() + SECONDS)
            answers = await talks
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    histories = told([out for out, _ in answers])
    assert faults(histories) == []
    counts = counted(histories)
    assert min(counts["cas won"], counts["tokens"], counts["fenced"]) > 0, counts


async def pause_now_and_then(processes: list[asyncio.subprocess.Process], until: float) -> None:
    """Let one after the other stand still for up to three times as long as a lease lasts."""
    dice = random.Random(7)
    while time.monotonic() < until:
        process = dice.choice(processes)
        with suppress(ProcessLookupError):  # it may be done a moment before the time is up
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(dice.random() * 3 * TTL)
            process.send_signal(signal.SIGCONT)
        await asyncio.sleep(dice.random() * TTL)


def told(outputs: list[bytes]) -> Histories:
    histories: Histories = defaultdict(list)
    for line in b"".join(outputs).splitlines():
        on, begin, end, name, given, got = json.loads(line)
        histories[on].append(Done(begin, math.inf if end is None else end, name, given, got))
    return histories


class LooksThenWrites(Client):
    """Compare and set in two steps, as one would with a store that has no conditions."""

    async def write(self, key: str, value: Any, expected: int | None) -> list[Any]:
        current = (await self.read(key))[1]
        if expected is not None and current != expected:
            return [False, current]
        await asyncio.sleep(0.002)
        return await super().write(key, value, None)


class WritesWithoutFence(Client):
    """Holds a lease, and trusts that it still does."""

    async def fenced(self, token: int) -> bool:
        await self.kv.set(*self.at, "fenced", token)
        return True


@pytest.mark.parametrize(
    ("client", "found"), [(LooksThenWrites, set(KEYS)), (WritesWithoutFence, {"lease"})]
)
async def test_a_planted_fault_is_found(
    operations: Operations,
    control: AsyncEngine,
    principal: Principal,
    client: type[Client],
    found: set[str],
) -> None:
    kv = KvService(operations, control)
    histories = await asked(kv, principal, "cache/n", 2.0, client)
    assert set(faults(histories)) & found


def call(begin: float, end: float, name: str, given: Any, got: Any) -> Done:
    return Done(begin, end, name, given, got)


def test_the_check_knows_what_may_and_may_not_be() -> None:
    first = call(0, 10, "write", ["x", 0], [True, 1])
    lost = call(0, math.inf, "write", ["y", None], None)
    for history, fits in (
        ([first, call(2, 3, "read", None, [None, 0])], True),  # at once: either may come first
        ([first, call(2, 3, "read", None, ["x", 1])], True),
        ([first, call(11, 12, "read", None, [None, 0])], False),
        ([first, call(1, 9, "write", ["z", 0], [True, 2])], False),
        ([first, call(1, 9, "write", ["z", 0], [False, 1])], True),
        ([first, call(11, 12, "write", ["z", 1], [False, 1])], False),
        ([first, call(11, 12, "delete", None, False)], False),
        ([first, lost, call(20, 21, "read", None, ["y", 9])], True),  # it came late
        ([first, lost, call(20, 21, "read", None, ["x", 1])], True),  # or never
        ([lost, call(1, 2, "read", None, ["y", 9]), call(3, 4, "read", None, [None, 0])], False),
    ):
        assert linearizable(history, register, (None, 0)) is fits, history
    one = call(0, 1, "acquire", None, 5)
    for more, fits in (
        ([call(2, 3, "acquire", None, None)], True),
        ([call(2, 3, "acquire", None, 4)], False),
        ([call(2, 3, "acquire", None, 6), call(4, 5, "fenced", 5, True)], False),
        ([call(2, 3, "acquire", None, 6), call(4, 5, "fenced", 5, False)], True),
        ([call(2, 5, "acquire", None, 6), call(4, 6, "fenced", 5, True)], True),
        ([call(2, 3, "release", 5, True), call(4, 5, "fenced", 5, True)], False),
        ([call(2, 3, "release", 5, True), call(4, 5, "acquire", None, None)], False),
    ):
        assert linearizable([one, *more], lease, (0, False)) is fits, more
