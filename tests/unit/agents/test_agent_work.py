"""An agent's run over the engine's own context: its rights, its rules, and its way through interruptions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import anyio
import pytest

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.agents.loop import ToolOutcome
from mcp_server.auth.principal import Principal
from mcp_server.errors import Unauthenticated, Unavailable
from mcp_server.llm import Model
from mcp_server.runs.context import Asked, RunContext
from mcp_server.runs.event_log import EventLog
from mcp_server.runs.record import Event, Outcome, Run, Status, new_run_id
from mcp_server.services import patience
from mcp_server.services.agent_work import AgentWork
from tests.unit.agents.conftest import Script, Tools, calls, says


@dataclass
class State:
    finished: bool
    result: Any = None


class Memory:
    """The store of one run, as the engine's own but in memory; `interrupt` is called at each write."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.states: dict[str, State] = {}
        self.interrupt: Callable[[], None] = lambda: None

    async def append(self, run: str, epoch: int, first: int, events: Sequence[Event]) -> bool:
        del run, epoch
        await asyncio.sleep(0)
        assert first == len(self.events) + 1
        self.events += events
        self.interrupt()
        return True

    async def finish(
        self, run: str, epoch: int, step: str, result: Any, first: int, events: Sequence[Event]
    ) -> bool:
        await asyncio.sleep(0)
        assert not self.states.get(step, State(finished=False)).finished
        self.states[step] = State(finished=True, result=result)
        return await self.append(run, epoch, first, events)

    async def begin(self, run: str, epoch: int, step: str) -> bool:
        del run, epoch
        self.states[step] = State(finished=False)
        self.interrupt()
        return True

    async def read(self, run: str, after: int) -> tuple[list[Event], Status | None]:
        del run
        page = self.events[after : after + 3]
        return [{"seq": after + n, **event} for n, event in enumerate(page, 1)], "running"


class World:
    """One run of one agent, and what a test may change under it."""

    def __init__(self, model: Model, tools: Tools, **fields: Any) -> None:
        self.memory = Memory()
        self.model, self.tools = model, tools
        self.scopes: Callable[[], frozenset[str] | None] = lambda: frozenset({"run", "write"})
        definition = AgentDefinition(name="a", instructions="", tools=("add",), **fields)
        self.run = Run(
            id=new_run_id(),
            tenant="t",
            subject="s",
            key_id="k",
            grant=frozenset({"write"}),
            kind="agent",
            input={"messages": [{"role": "user", "content": "go"}], "options": {}},
            definition=definition.model_dump(mode="json") | {"version": 7},
        )

    async def model_for(self, _: str) -> tuple[Model, str]:
        return self.model, "m"

    async def scopes_now(self, principal: Principal) -> frozenset[str] | None:
        assert principal.scopes == frozenset({"write"})
        return self.scopes()

    async def attempt(self) -> Outcome | Asked:
        """Make one attempt; `CancelledError` if it is interrupted."""
        memory = self.memory
        attempt = self.run.attempt + 1
        self.run = replace(self.run, attempt=attempt)
        last = len(memory.events)
        log = EventLog(self.run.id, attempt, last, memory, memory, lambda: None)
        context = RunContext(self.run, attempt, log, memory, memory.states)
        writing = asyncio.create_task(log.write())
        runs: Any = None  # no conversation, no other agents
        work = AgentWork(self.model_for, lambda *_: self.tools, self.scopes_now, memory.read, runs)
        working = asyncio.ensure_future(work(context))
        tasks = {working, writing}
        memory.interrupt = lambda: None
        try:
            self.interrupting(tasks)
            await asyncio.wait({*tasks, context.parting}, return_when=asyncio.FIRST_COMPLETED)
            if context.parting.done():
                asked = context.parting.result()
                assert isinstance(asked, Asked)
                return asked
            if writing.cancelled():
                raise asyncio.CancelledError
            log.close()
            await writing
            return working.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def interrupting(self, tasks: set[asyncio.Task[Any] | asyncio.Future[Any]]) -> None:
        """Have the attempt interrupted; here it is not."""


class Fragile(World):
    """Its process dies after some writes."""

    moments = 10**9

    def interrupting(self, tasks: set[asyncio.Task[Any] | asyncio.Future[Any]]) -> None:
        left = self.moments

        def count() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                for task in tasks:
                    task.cancel()

        self.memory.interrupt = count


def adding(script: Script) -> tuple[Tools, dict[str | None, int]]:
    effects: dict[str | None, int] = {}

    async def add(arguments: dict[str, Any]) -> ToolOutcome:
        key = (tools.calls[-1][2] or "").partition("@")[0]
        await asyncio.sleep(0)
        effects.setdefault(key, arguments["n"])
        await asyncio.sleep(0)
        return ToolOutcome(str(effects[key]))

    tools = script.tools(add=add)
    return tools, effects


async def test_a_run_that_dies_again_and_again_ends_with_the_same_effects(script: Script) -> None:
    turns = [
        calls(("add", {"n": 1}), ("add", {"n": 2}), text="First this"),
        calls(("add", {"n": 3})),
        says("and ", "that"),
    ]
    rng = random.Random(3)
    for _ in range(60):
        tools, effects = adding(script)
        world = Fragile(script.by_conversation(*turns), tools)
        ended = None
        while ended is None:
            # Each attempt gets further than the one before, or it might never end.
            world.moments = world.run.attempt // 2 + rng.randrange(4)
            with suppress(asyncio.CancelledError):
                ended = await world.attempt()
        assert isinstance(ended, Outcome)
        assert (ended.status, ended.output) == ("completed", "First this\n\nand that")
        assert ended.usage is not None
        assert ended.usage["total_tokens"] == 6
        run = world.run.id
        assert effects == {f"{run}/call/1": 1, f"{run}/call/2": 2, f"{run}/call/3": 3}
        kinds = [event["type"] for event in world.memory.events]
        assert (kinds.count("tool_started"), kinds.count("tool_finished")) == (3, 3)
        assert kinds.count("turn_finished") - kinds.count("turn_incomplete") <= 3


async def test_a_key_that_died_while_the_model_spoke_ends_the_run(script: Script) -> None:
    world = World(script.model(says("secret")), script.tools())
    world.scopes = lambda: None if world.memory.events else frozenset({"write"})
    with pytest.raises(Unauthenticated, match="revoked or expired"):
        await world.attempt()


async def test_rights_that_cannot_be_told_are_asked_again(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_PAUSE_SECONDS", 0.001)
    asked: list[None] = []

    def away() -> frozenset[str]:
        asked.append(None)
        if len(asked) < 20:
            raise OSError("connection refused")
        return frozenset({"write"})

    world = World(script.model(says("ok")), script.tools())
    world.scopes = away
    with anyio.fail_after(5):
        ended = await world.attempt()
    assert isinstance(ended, Outcome)
    assert ended.output == "ok"

    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.0)
    asked.clear()
    with pytest.raises(Unavailable, match="rights cannot be checked"):
        await World.attempt(world)


async def test_a_failing_model_is_the_engines_to_try_again(script: Script) -> None:
    world = World(script.model(Unavailable("overloaded")), script.tools())
    with pytest.raises(Unavailable) as caught:
        await world.attempt()
    assert caught.value.retryable


async def test_an_agents_approvals_and_policy_hold_in_its_runs(script: Script) -> None:
    tools, effects = adding(script)
    model = script.model(calls(("add", {"n": 1})), says("ok"))
    world = World(model, tools, approve=("add",), unsure="retry")
    asked = await world.attempt()
    assert isinstance(asked, Asked)
    assert (asked.step, asked.request["kind"], effects) == ("approve/1", "approval", {})
    world.memory.states[asked.step] = State(finished=True, result={"approved": True})
    ended = await world.attempt()
    assert isinstance(ended, Outcome)
    assert ended.output == "ok"
    assert list(effects.values()) == [1]


async def test_a_used_up_limit_fails_the_run_with_what_there_is(script: Script) -> None:
    tools, _ = adding(script)
    model = script.model(calls(("add", {"n": 1}), text="Wait"))
    ended = await World(model, tools, limits={"turns": 2}).attempt()
    assert isinstance(ended, Outcome)
    assert (ended.status, ended.output) == ("failed", "Wait\n\nWait")
    message = "the run was stopped: its limit of 2 turns was used up"
    assert ended.error == {"code": "limit_exceeded", "message": message}
    assert [event["type"] for event in ended.events] == ["message"]


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


async def test_an_agents_answer_fits_its_schema_after_one_repair(script: Script) -> None:
    model = script.model(says("no JSON"), says('{"n": 3}'))
    ended = await World(model, script.tools(), output_schema=SCHEMA).attempt()
    assert isinstance(ended, Outcome)
    assert (ended.status, ended.output) == ("completed", '{"n": 3}')
    asked = model.requests[0]["response_format"]
    assert asked["json_schema"]["schema"] == SCHEMA
    assert "it is not JSON" in model.requests[1]["messages"][-1]["content"]


async def test_an_answer_that_does_not_fit_twice_fails_the_run_and_is_kept(script: Script) -> None:
    model = script.model(says('{"n": "x"}'))
    ended = await World(model, script.tools(), output_schema=SCHEMA).attempt()
    assert isinstance(ended, Outcome)
    assert (ended.status, ended.output) == ("failed", '{"n": "x"}')
    assert ended.error is not None
    assert ended.error["code"] == "output_invalid"
    assert "'x' is not of type 'integer'" in model.requests[1]["messages"][-1]["content"]
    assert len(model.requests) == 2


async def test_an_agent_whose_calls_are_not_parallel_makes_them_one_by_one(script: Script) -> None:
    running: list[int] = []

    async def add(arguments: dict[str, Any]) -> ToolOutcome:
        running.append(arguments["n"])
        await asyncio.sleep(0)
        assert running == [arguments["n"]]
        running.clear()
        return ToolOutcome("ok")

    model = script.model(calls(("add", {"n": 1}), ("add", {"n": 2})), says("ok"))
    ended = await World(model, script.tools(add=add), parallel=False).attempt()
    assert isinstance(ended, Outcome)
    assert ended.output == "ok"


async def test_an_agents_used_up_tokens_fail_its_run_with_what_there_is(script: Script) -> None:
    tools, effects = adding(script)
    model = script.model(calls(("add", {"n": 1}), text="Wait"))
    ended = await World(model, tools, limits={"tokens": 3}).attempt()
    assert isinstance(ended, Outcome)
    assert (ended.status, ended.output, len(effects)) == ("failed", "Wait\n\nWait", 1)
    message = "the run was stopped: its limit of 3 tokens was used up"
    assert ended.error == {"code": "limit_exceeded", "message": message}
