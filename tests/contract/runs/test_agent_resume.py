"""Agents whose worker is stopped anywhere: another one goes on, and every effect of a call happens once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from inspect import iscoroutinefunction
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.agents.loop import ToolOutcome
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.llm import ChatRequest, Chunk, Model
from mcp_server.llm.script_file import load_turns
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.operation import Operations
from mcp_server.runs.fence import parse_key
from mcp_server.runs.intervals import Timing
from mcp_server.runs.leases import Leases
from mcp_server.runs.stores import Stores
from mcp_server.runs.worker import open_worker
from mcp_server.services.agent_work import AgentWork
from mcp_server.services.agents import AgentService
from mcp_server.services.kv import KvService
from mcp_server.services.run_engine import open_runs, run_stores
from mcp_server.services.runs import RunService
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import open_postgresql
from mcp_server.storage.sql.wake import Wake
from tests.conftest import SECRET
from tests.contract.runs.world import ended

# A worker counts as dead after 0.6 seconds.
LEASE_SECONDS = 0.6
QUICK = Timing(lease=LEASE_SECONDS, heartbeat=0.1, claim=0.1, watch=0.1, sweep=0.1)

TURNS = """
turns:
- tool_calls: [{name: note, arguments: {text: one}}, {name: count, arguments: {}}]
- tool_calls: [{name: count, arguments: {}}, {name: note, arguments: {text: two}}]
- text: all of it was done and counted
"""
CALLS = 4


class Gate:
    """Lets a worker do so many things, then holds everything that it does, as SIGSTOP does."""

    def __init__(self, things: int = 10**9) -> None:
        self.left = things
        self.stopped = asyncio.Event()
        self.woken = asyncio.Event()

    async def __call__(self, thing: int = 1) -> None:
        self.left -= thing
        if self.left < 0 and not self.woken.is_set():
            self.stopped.set()
            await self.woken.wait()


class Gated:
    """An object whose methods pass a gate before and after they do what they do."""

    def __init__(self, inner: Any, gate: Gate, thing: int = 1) -> None:
        self._inner, self._gate, self._thing = inner, gate, thing

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not iscoroutinefunction(method):
            return method

        async def passing(*args: Any, **named: Any) -> Any:
            await self._gate(self._thing)
            result = await method(*args, **named)
            await self._gate(self._thing)
            return result

        return passing


def gated(inner: Any, gate: Gate, thing: int = 1) -> Any:
    return Gated(inner, gate, thing)


class GatedModel(ScriptedModel):
    """Speaks slowly enough for its words to be told one by one."""

    gate: Gate

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().stream(request):
            await asyncio.sleep(0.02)
            await self.gate()
            yield chunk


class Books:
    """A toolbox with one tool that inserts a row and one that writes a key; both heed the call's key."""

    unrepeatable: frozenset[str] = frozenset()

    def __init__(self, sql: SqlService, kv: KvService, principal: Principal) -> None:
        self.sql, self.kv, self.principal = sql, kv, principal

    async def specs(self) -> list[dict[str, Any]]:
        return [{"type": "function", "function": {"name": name}} for name in ("note", "count")]

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        assert key is not None
        step = parse_key(key)
        assert step is not None
        if name == "note":
            insert = "insert into notes values ($1, $2)"
            values = [step.key, arguments["text"]]
            await self.sql.execute(self.principal, insert, values, key=key)
            return ToolOutcome("noted")
        await self.kv.set(self.principal, "default", "count", step.key, idempotency_key=key)
        return ToolOutcome("counted")

    def repeatable(self, name: str) -> bool:
        return name not in self.unrepeatable


class Cell:
    """A database with a service of runs, and workers that come and go."""

    def __init__(
        self, control: AsyncEngine, operations: Operations, sql: SqlService, runs: RunService
    ) -> None:
        self.control, self.sql, self.runs = control, sql, runs
        self.kv = KvService(operations, control)
        self.stores = fast_stores(control)

    async def scopes_now(self, principal: Principal) -> frozenset[str]:
        return principal.scopes

    @asynccontextmanager
    async def worker(self, gate: Gate, script: str) -> AsyncGenerator[None]:
        model = GatedModel(load_turns(script, "script"))
        model.gate = gate

        async def model_for(_: str) -> tuple[Model, str]:
            return model, "scripted"

        work = AgentWork(
            model_for,
            lambda principal, _: gated(Books(self.sql, self.kv, principal), gate),
            self.scopes_now,
            lambda run, after: self.stores.events.read(run, after, 100),
        )
        plain = self.stores
        stores = replace(
            plain,
            queue=gated(plain.queue, gate),
            events=gated(plain.events, gate),
            steps=gated(plain.steps, gate),
            leases=gated(plain.leases, gate, 0),
            heartbeat=gated(plain.heartbeat, gate, 0),
        )
        async with open_worker(stores, {"agent": work}, Wake(), timing=QUICK):
            try:
                yield
            finally:
                gate.woken.set()


def fast_stores(control: AsyncEngine) -> Stores:
    stores = run_stores(control, control)
    leases = Leases(control, stores.leases._record, LEASE_SECONDS)
    return replace(stores, leases=leases, heartbeat=leases)


@pytest.fixture
async def cell(
    cluster: Cluster, control: AsyncEngine, operations: Operations, principal: Principal
) -> AsyncIterator[Cell]:
    async with (
        open_postgresql(cluster.data_url, SECRET, connections=8) as engine,
        open_runs(operations, control, run_stores(control, control), Wake()) as runs,
    ):
        sql = SqlService(operations, control, engine)
        await sql.execute(principal, "create table notes (step text, said text)")
        yield Cell(control, operations, sql, runs)


@pytest.fixture
async def agents(operations: Operations, control: AsyncEngine) -> AgentService:
    async def both(_: Principal) -> list[Any]:
        return [SimpleNamespace(name=name) for name in ("note", "count")]

    return AgentService(operations, control, models=ScriptedModel().models, tools=both)


@pytest.fixture(autouse=True)
async def clerk(agents: AgentService, principal: Principal) -> None:
    await agents.save(principal, "clerk", instructions="", tools=["note", "count"])


async def effects_of(cell: Cell, principal: Principal) -> Counter[tuple[str, str]]:
    """Count what was done for each step, as the engines themselves tell it."""
    rows = await cell.sql.query(principal, "select step, count(*) from notes group by step")
    counted = Counter({("sql", step): int(count) for step, count in rows["rows"]})
    query = "select step, count(*) as n from journal where tenant = :t and uri = :uri group by step"
    async with cell.control.connect() as tx:
        given = {"t": principal.tenant, "uri": "kv://default/count"}
        for row in await tx.execute(text(query), given):
            counted["kv", row.step.partition("@")[0]] += row.n
    return counted


@pytest.mark.parametrize("seed", range(4))
async def test_a_worker_stopped_anywhere_loses_and_doubles_nothing(
    cell: Cell, principal: Principal, seed: int
) -> None:
    gate = Gate(random.Random(seed).randrange(20, 260))
    async with cell.worker(gate, TURNS):
        started = [await cell.runs.start(principal, "clerk", f"go {n}") for n in range(6)]
        with anyio.fail_after(30):
            await gate.stopped.wait()
        async with cell.worker(Gate(), TURNS):
            before = [await ended(cell.runs, principal, run["run"]) for run in started]
            gate.woken.set()  # a zombie now: what it goes on with must not count
            await settled(lambda: gate.left < -20)
    after = [await ended(cell.runs, principal, run["run"]) for run in started]

    assert after == before
    items = [await cell.runs.get(principal, run["run"]) for run in started]
    assert [item["status"] for item in items] == ["completed"] * len(items)
    assert {item["output"] for item in items} == {"all of it was done and counted"}
    assert len({str(item["usage"]) for item in items}) == 1
    assert max(item["attempt"] for item in items) > 1
    effects = await effects_of(cell, principal)
    assert set(effects.values()) == {1}
    assert len(effects) == CALLS * len(items)
    for events in after:
        kinds = Counter(event["type"] for event in events)
        assert (kinds["tool_started"], kinds["tool_finished"]) == (CALLS, CALLS)
        assert kinds["turn_finished"] >= 3


async def settled(condition: Callable[[], bool], seconds: float = 1.0) -> None:
    """Wait until a condition holds, for a while at most."""
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    while not condition() and clock() < until:
        await asyncio.sleep(0.02)


async def waiting(cell: Cell, principal: Principal, run: str) -> dict[str, Any]:
    """Return what the run asks, once it asks."""
    with anyio.fail_after(10):
        while True:
            item = await cell.runs.get(principal, run)
            if item["status"] == "input_required":
                assert item["request"] is not None
                return dict(item["request"])
            await asyncio.sleep(0.02)


async def test_a_call_waits_for_a_persons_approval_without_a_worker(
    cell: Cell, agents: AgentService, principal: Principal
) -> None:
    both = ["note", "count"]
    await agents.save(principal, "asks", instructions="", tools=both, approve=["note"])
    async with cell.worker(Gate(), TURNS):
        run = (await cell.runs.start(principal, "asks", "go"))["run"]
        first = await waiting(cell, principal, run)
    # The turn's other call needs nobody's approval, and was not held up.
    assert list(await effects_of(cell, principal)) == [("kv", f"{run}/call/2")]
    assert (first["kind"], first["message"]) == (
        *("approval", 'May the agent call note with {"text": "one"}?'),
    )
    with pytest.raises(InvalidInput):
        await cell.runs.input(principal, run, {"approved": "maybe"})
    await cell.runs.input(principal, run, {"approved": True})
    async with cell.worker(Gate(), TURNS):
        second = await waiting(cell, principal, run)
        assert second["id"] != first["id"]
        await cell.runs.input(principal, run, {"approved": False, "reason": "one is enough"})
        events = await ended(cell.runs, principal, run)
    told = [event["text"] for event in events if event["type"] == "tool_finished"]
    refused = "forbidden: the call was refused: one is enough"
    assert told == ["counted", "noted", "counted", refused]
    assert sorted(key[0] for key in await effects_of(cell, principal)) == ["kv", "kv", "sql"]


@pytest.mark.parametrize("unsure", ["fail", "retry"])
async def test_an_interrupted_call_that_cannot_be_repeated_ends_by_the_agents_policy(
    cell: Cell,
    agents: AgentService,
    principal: Principal,
    unsure: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = ["note", "count"]
    await agents.save(principal, "sends", instructions="", tools=both, unsure=unsure)
    monkeypatch.setattr(Books, "unrepeatable", frozenset({"note"}))
    reached = asyncio.Event()
    call = Books.call

    async def never_back(self: Books, name: str, arguments: dict[str, Any], **key: Any) -> Any:
        if name == "note" and not reached.is_set():
            reached.set()
            gate.left = -1
            await gate()
        return await call(self, name, arguments, **key)

    monkeypatch.setattr(Books, "call", never_back)
    gate = Gate()
    async with cell.worker(gate, TURNS):
        run = (await cell.runs.start(principal, "sends", "go"))["run"]
        with anyio.fail_after(10):
            await gate.stopped.wait()
        async with cell.worker(Gate(), TURNS):
            await ended(cell.runs, principal, run)
    item = await cell.runs.get(principal, run)
    if unsure == "retry":
        assert (item["status"], item["attempt"]) == ("completed", 2)
        assert len(await effects_of(cell, principal)) == CALLS
    else:
        assert item["error"] is not None
        assert (item["status"], item["error"]["code"]) == ("failed", "unsure")
        assert "tool note: step call/1 had begun" in item["error"]["message"]
        assert not [key for key in await effects_of(cell, principal) if key[0] == "sql"]
