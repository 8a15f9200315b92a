"""Agents that ask other agents: each call is one run below the caller's, whatever happens to either."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from mcp_server.auth.principal import Principal
from mcp_server.errors import Forbidden
from mcp_server.llm import ChatRequest, Chunk
from mcp_server.llm.script_file import load_turns
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.services.agent_stats import AgentStatsService
from mcp_server.services.runs import RunService
from tests.contract.runs.world import World, ended, reached

SLOW = "turns: [{text: late, delay_ms: 60000}]"
READ = "turns: [{tool_calls: [{name: kv_get, arguments: {key: a}}]}, {text: read}]"
WRITE = """
turns:
- tool_calls: [{name: kv_set, arguments: {key: a, value: 1}}]
- text: well
"""
CLERK = {"instructions": WRITE, "tools": ["kv_set"], "approve": ["kv_set"]}


class Instructed(ScriptedModel):
    """Follows the script that the agent's instructions are, else the rules."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        said = request["messages"][0]
        told = said["content"] if said["role"] == "system" else ""
        model = ScriptedModel(load_turns(told, "script")) if "turns" in told else ScriptedModel()
        async for chunk in model.stream(request):
            yield chunk


async def team(world: World, principal: Principal, **agents: Mapping[str, Any]) -> None:
    """Save agents, those first that others ask; each asks the first function that it has."""
    world.model = Instructed
    for name, fields in agents.items():
        await world.agents.save(principal, name, **{"instructions": "", **fields})


async def run(runs: RunService, principal: Principal, agent: str, words: str = "hi") -> Any:
    return await runs.run(principal, agent, words, wait_seconds=30)


async def children(runs: RunService, principal: Principal, parent: str) -> list[Any]:
    return list((await runs.list(principal, parent=parent))["items"])


async def asking(runs: RunService, principal: Principal, run: str) -> Any:
    """Return a run once it asks something."""
    with anyio.fail_after(20):
        while (item := await runs.get(principal, run))["request"] is None:
            assert item["ended_at"] is None, item
            await asyncio.sleep(0.02)
    return item


async def the_child(runs: RunService, principal: Principal, parent: str) -> Any:
    with anyio.fail_after(20):
        while not (found := await children(runs, principal, parent)):
            await asyncio.sleep(0.02)
    return found[0]


async def test_an_agent_asks_another_one_and_counts_what_that_used(
    world: World, runs: RunService, principal: Principal
) -> None:
    await team(world, principal, echo={}, boss={"agents": ["echo"]})
    alone = await run(runs, principal, "echo")
    done = await run(runs, principal, "boss")
    assert (done["status"], done["output"]) == ("completed", "hi")
    (child,) = await children(runs, principal, done["run"])
    assert (child["agent"], child["parent"], child["status"]) == ("echo", done["run"], "completed")
    assert child["usage"] == alone["usage"]
    turns = [
        event["usage"]["total_tokens"]
        for event in await ended(runs, principal, done["run"])
        if event["type"] == "turn_finished"
    ]
    assert done["usage"]["total_tokens"] == sum(turns) + child["usage"]["total_tokens"]


async def test_the_figures_of_agents_count_what_was_used_once_whoever_asked_for_it(
    world: World, runs: RunService, principal: Principal
) -> None:
    await team(world, principal, echo={}, middle={"agents": ["echo"]}, boss={"agents": ["middle"]})
    done = await run(runs, principal, "boss")
    told = await AgentStatsService(world.operations, world.control).stats(principal)
    used = {item["agent"]: item["prompt_tokens"] for item in told["items"]}
    assert set(used) == {"boss", "middle", "echo"}
    assert min(used.values()) > 0
    # A run's usage has that of the runs below it; its figures are its own.
    assert sum(used.values()) == told["total"]["prompt_tokens"] == done["usage"]["prompt_tokens"]


async def test_five_agents_deep_is_the_most(
    world: World, runs: RunService, principal: Principal
) -> None:
    chain = {f"a{n}": {"agents": [f"a{n + 1}"] if n < 6 else []} for n in range(6, 0, -1)}
    await team(world, principal, **chain)
    assert (await run(runs, principal, "a2"))["output"] == "hi"
    done = await run(runs, principal, "a1")
    assert done["status"] == "completed"
    assert "limit_exceeded: 5 runs have started one another already" in done["output"]


async def test_parents_alone_in_every_place_of_a_worker_do_not_wait_for_ever(
    world: World, principal: Principal
) -> None:
    await team(world, principal, c={}, b={"agents": ["c"]}, a={"agents": ["b"]})
    async with world.open(concurrency=1) as runs:
        started = [(await runs.start(principal, "a", f"n{n}"))["run"] for n in range(5)]
        for each in started:
            await ended(runs, principal, each)
        items = [await runs.get(principal, each) for each in started]
    assert [item["output"] for item in items] == [f"n{n}" for n in range(5)]


async def test_who_cancels_the_caller_cancels_what_it_asked(
    world: World, runs: RunService, principal: Principal
) -> None:
    await team(world, principal, slow={"instructions": SLOW}, boss={"agents": ["slow"]})
    started = (await runs.start(principal, "boss", "hi"))["run"]
    child = await the_child(runs, principal, started)
    await runs.cancel(principal, started)
    assert (await runs.get(principal, child["run"]))["status"] == "cancelled"


async def test_what_a_caller_asked_ends_with_its_time(
    world: World, runs: RunService, principal: Principal
) -> None:
    short = {"agents": ["slow"], "limits": {"seconds": 1.5}}
    await team(world, principal, slow={"instructions": SLOW}, boss=short)
    done = await run(runs, principal, "boss")
    assert done["error"] is not None
    assert (done["status"], done["error"]["code"]) == ("failed", "limit_exceeded")
    (child,) = await children(runs, principal, done["run"])
    events = await ended(runs, principal, child["run"])
    assert events[-1]["status"] == "cancelled"


async def test_a_failure_below_is_told_to_the_model_and_not_tried_again(
    world: World, runs: RunService, principal: Principal
) -> None:
    await team(world, principal, bad={"limits": {"turns": 1}, "tools": ["kv_get"]})
    await team(world, principal, boss={"agents": ["bad"]})
    done = await run(runs, principal, "boss")
    (child,) = await children(runs, principal, done["run"])
    assert child["status"] == "failed"
    assert done["output"].startswith(f"failed: run {child['run']} of agent bad failed: limit_ex")


@pytest.mark.parametrize("answered_at", ["the caller", "the agent below"])
@pytest.mark.parametrize("approved", [True, False])
async def test_what_an_agent_below_asks_a_person_its_caller_asks(
    world: World, runs: RunService, principal: Principal, answered_at: str, approved: bool
) -> None:
    await team(world, principal, clerk=CLERK, boss={"agents": ["clerk"]})
    started = (await runs.start(principal, "boss", "hi"))["run"]
    request = (await asking(runs, principal, started))["request"]
    child = await the_child(runs, principal, started)
    below = (await runs.get(principal, child["run"]))["request"]
    assert below is not None
    assert request["message"] == f"clerk: {below['message']}"
    assert (request["kind"], request["call"]["name"]) == ("approval", "kv_set")
    assert request["child"] == {"run": child["run"], "request": below["id"]}
    with pytest.raises(Forbidden):
        await runs.input(principal, started, {"approved": True}, by_model=True)
    where = started if answered_at == "the caller" else child["run"]
    await runs.input(principal, where, {"approved": approved})
    await ended(runs, principal, started)
    done = await runs.get(principal, started)
    assert (done["status"], done["output"]) == ("completed", "well")
    assert len(await children(runs, principal, started)) == 1
    told = await ended(runs, principal, child["run"])
    (result,) = [event["text"] for event in told if event["type"] == "tool_finished"]
    assert result == ("set" if approved else "forbidden: the call was refused")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "invalid_input: input: give a text"),
        ({"input": 5}, "invalid_input: input: give a text"),
        ({"input": ""}, "invalid_input: input: give a text"),
        ({"input": "x", "more": "y"}, "invalid_input: variables: the agent has no more"),
        ({"input": "x", "more": 1}, "invalid_input: more: give a text"),
    ],
)
async def test_a_malformed_call_is_told_and_begins_nothing(
    world: World, runs: RunService, principal: Principal, arguments: Any, told: str
) -> None:
    await team(world, principal, echo={})
    called = {"tool_calls": [{"name": "agent_echo", "arguments": arguments}]}
    script = json.dumps({"turns": [called, {"text": "well"}]})
    await world.agents.save(principal, "boss", instructions=script, agents=["echo"])
    done = await run(runs, principal, "boss")
    events = await ended(runs, principal, done["run"])
    (result,) = [event["text"] for event in events if event["type"] == "tool_finished"]
    assert result.startswith(told)
    assert await children(runs, principal, done["run"]) == []


async def test_an_agent_below_has_no_more_rights_than_its_caller_and_none_that_it_may_not_run(
    world: World, runs: RunService, principal: Principal
) -> None:
    await team(
        world,
        principal,
        reader={"tools": ["kv_get"], "instructions": READ},
        hidden={},
        boss={"agents": ["reader", "hidden"]},
    )
    scopes = frozenset({"run:agent://boss", "run:agent://reader"})
    poor = Principal(principal.tenant, principal.subject, scopes)
    done = await run(runs, poor, "boss")
    (child,) = await children(runs, principal, done["run"])
    assert child["agent"] == "reader"
    told = await ended(runs, principal, child["run"])
    (result,) = [event["text"] for event in told if event["type"] == "tool_finished"]
    assert result.startswith("forbidden: ")  # the caller may read no key
    none = Principal(principal.tenant, principal.subject, frozenset({"run:agent://boss"}))
    alone = await run(runs, none, "boss", "nobody to ask")
    assert alone["output"] == "nobody to ask"


async def test_a_version_that_is_saved_meanwhile_changes_no_run_below_that_began(
    world: World, runs: RunService, principal: Principal
) -> None:
    await team(world, principal, below=CLERK, boss={"agents": ["below"]})
    started = (await runs.start(principal, "boss", "hi"))["run"]
    await asking(runs, principal, started)
    child = await the_child(runs, principal, started)
    before = (await runs.get(principal, child["run"]))["agent_version"]
    await world.agents.save(principal, "below", instructions="another")
    await runs.input(principal, started, {"approved": True})
    await ended(runs, principal, started)
    after = await runs.get(principal, child["run"])
    assert (after["status"], after["agent_version"]) == ("completed", before)


async def test_a_caller_whose_worker_dies_finds_the_run_that_it_began(
    world: World, principal: Principal
) -> None:
    soon = "turns: [{text: at last, delay_ms: 700}]"
    await team(world, principal, slow={"instructions": soon}, boss={"agents": ["slow"]})
    async with world.open() as runs:
        started = (await runs.start(principal, "boss", "hi"))["run"]
        child = await the_child(runs, principal, started)
        await reached(runs, principal, child["run"])
    # Handed back by the worker that closed, as after its death, both begin anew in another one.
    async with world.open() as runs:
        await ended(runs, principal, started)
        done = await runs.get(principal, started)
        assert (done["status"], done["output"]) == ("completed", "at last")
        assert done["attempt"] > 1
        assert [each["run"] for each in await children(runs, principal, started)] == [child["run"]]
    count = "select count(*) from runs where tenant = :tenant"
    async with world.control.connect() as tx:
        assert await tx.scalar(text(count), {"tenant": principal.tenant}) == 2
