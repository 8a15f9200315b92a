"""Agents whose workers are killed and stopped, and whose database is: what their tools do is done once, what a person allowed is asked once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from mcp_server.agents.definitions import AgentLimits
from mcp_server.auth.principal import OWNER
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import load_settings
from tests.e2e.deaths import fragile_workers, insistent
from tests.e2e.processes import LONG
from tests.e2e.torment import (
    KINDS,
    PLUGINS,
    SQL_TABLE,
    Torment,
    aftermath,
    counted,
    events_of,
    stale,
    wrong_in,
)

POINTS_WANTED, RUNS = (1000, 200) if LONG else (40, 12)
EMBEDDED_POINTS = 20 if LONG else 3
TEAM_POINTS, TEAM_RUNS = (500, 100) if LONG else (25, 6)
LEDGER = "create table ledger (line text)"
ANSWER = "All of it was done."
TOOLS = ["tally", "sign", "sql_execute"]
# The kinds of the calls of each turn; the calls of a run are numbered through all turns.
TURNS = (("sql", "kv", "object", "vector"), ("sign",), ("vector", "ledger", "object", "kv"))
CALLS = [kind for turn in TURNS for kind in turn]


def call_of(kind: str) -> dict[str, Any]:
    if kind == "sign":
        return {"name": "sign", "arguments": {}}
    if kind == "ledger":
        return {
            "name": "sql_execute",
            "arguments": {"sql": "insert into ledger values ('a line')"},
        }
    return {"name": "tally", "arguments": {"kind": kind}}


def script() -> str:
    """Give a model that calls the tools of a turn at once, turn after turn, and then answers."""
    turns: list[dict[str, Any]] = [
        {"tool_calls": [call_of(kind) for kind in turn], "delay_ms": 20} for turn in TURNS
    ]
    return json.dumps({"turns": [*turns, {"text": ANSWER}]})


@pytest.mark.timeout(3600)
async def test_what_agents_do_is_done_once_though_their_workers_die(data_dir: Path) -> None:
    model = data_dir.with_suffix(".yaml")
    model.write_text(script(), encoding="utf-8")
    settings = load_settings(
        data_dir=data_dir, llm_url=(f"scripted:{model}",), plugins=(PLUGINS,), auth="off"
    )
    async with open_runtime(settings, concurrency=0) as runtime:
        for table in (SQL_TABLE, LEDGER):
            made = await runtime.bus.call(OWNER, "sql_execute", {"sql": table})
            assert not made.is_error, made.text
        await runtime.services.agents.save(
            OWNER, "clerk", instructions="Do it all.", tools=TOOLS, approve=["sign"]
        )

        async def start(number: int) -> object:
            return await runtime.services.runs.start(OWNER, "clerk", f"order {number}")

        with fragile_workers(data_dir, PLUGINS, LLM_URL=f"scripted:{model}") as workers:
            allowed = {"approved": True}
            torment = Torment(runtime, workers, start, allowed, POINTS_WANTED, RUNS, live=12)
            runs = await torment.endure()
        await aftermath(torment, runs, [problem async for problem in check(runtime, runs)])


async def check(runtime: Runtime, runs: list[str]) -> AsyncGenerator[str]:
    """Yield what is wrong with the effects, the answers and the events of the runs."""
    for run in runs:
        item = await runtime.services.runs.get(OWNER, run)
        if item["status"] != "completed" or item["output"] != ANSWER:
            yield f"{run}: {item['status']} {item['output']} {item['error']}"
            continue
        for number, called in enumerate(CALLS, 1):
            kind = "sql" if called == "sign" else called
            if kind in KINDS:
                times = await counted(runtime, run, f"call/{number}", kind)
                if times != 1:
                    yield f"{run} call/{number} ({called}): done {times} times"
        events = await events_of(runtime, run)
        for problem in [*wrong_in(events), *wrong_calls(events)]:
            yield f"{run}: {problem}"
        async for problem in stale(runtime, run):
            yield problem
    count = "select count(*) from ledger"
    written = await insistent(lambda: runtime.services.sql.query(OWNER, count))
    if written["rows"][0][0] != len(runs):
        yield f"the ledger has {written['rows'][0][0]} lines of {len(runs)} runs"


def wrong_calls(events: list[dict[str, Any]]) -> list[str]:
    """Tell which calls were not told of as begun once and ended once, and whether it was asked once."""
    wrong: list[str] = []
    names = Counter(call_of(kind)["name"] for kind in CALLS)
    for told in ("tool_started", "tool_finished"):
        found = Counter(event["name"] for event in events if event["type"] == told)
        if found != names:
            wrong.append(f"{told}: {dict(found)}")
    wrong += [event["text"] for event in events if event.get("is_error")]
    asked = [event for event in events if event.get("status") == "input_required"]
    if len(asked) != 1:
        wrong.append(f"it asked {len(asked)} times")
    return wrong


@pytest.mark.timeout(3600)
async def test_a_team_does_its_work_once_though_workers_of_callers_and_called_die(
    data_dir: Path,
) -> None:
    settings = load_settings(
        data_dir=data_dir, llm_url=("scripted:",), plugins=(PLUGINS,), auth="off"
    )
    async with open_runtime(settings, concurrency=0) as runtime:
        made = await runtime.bus.call(OWNER, "sql_execute", {"sql": SQL_TABLE})
        assert not made.is_error, made.text
        # Each calls the one function that it has; what the clerk asks is asked by the lead.
        save = runtime.services.agents.save
        await save(OWNER, "clerk", instructions="", tools=["tally"], approve=["tally"])
        await save(OWNER, "foreman", instructions="", agents=["clerk"])
        await save(OWNER, "lead", instructions="", agents=["foreman"])

        async def start(number: int) -> object:
            return await runtime.services.runs.start(OWNER, "lead", f"order {number}")

        with fragile_workers(data_dir, PLUGINS, LLM_URL="scripted:") as workers:
            allowed = {"approved": True}
            torment = Torment(runtime, workers, start, allowed, TEAM_POINTS, TEAM_RUNS, live=6)
            runs = await torment.endure()
        wrong = [problem for run in runs for problem in await check_team(runtime, run)]
        await aftermath(torment, runs, wrong)


async def check_team(runtime: Runtime, lead: str) -> list[str]:
    """Tell what is wrong with a run, the one below it, and the one below that, whose call is counted."""
    wrong: list[str] = []
    run, called = lead, ["agent_foreman", "agent_clerk", "tally"]
    for name in called:
        item = await runtime.services.runs.get(OWNER, run)
        events = await events_of(runtime, run)
        wrong += [f"{run}: {problem}" for problem in wrong_in(events)]
        calls = [event for event in events if event["type"] == "tool_finished"]
        if item["status"] != "completed" or [call["name"] for call in calls] != [name]:
            return [*wrong, f"{run}: {item['status']} {item['error']} called {calls}"]
        wrong += [problem async for problem in stale(runtime, run)]
        if name == "tally":
            kind = calls[0]["text"].rpartition(" ")[2]
            times = await counted(runtime, run, "call/1", kind)
            return wrong if times == 1 else [*wrong, f"{run}: done {times} times"]
        below = (await runtime.services.runs.list(OWNER, parent=run))["items"]
        if len(below) != 1:
            return [*wrong, f"{run}: {len(below)} runs below it"]
        run = below[0]["run"]
    return wrong


@pytest.mark.timeout(3600)
async def test_an_agent_on_the_embedded_model_survives_its_workers(data_dir: Path) -> None:
    settings = load_settings(data_dir=data_dir, llm_url=("gguf:",), plugins=(PLUGINS,), auth="off")
    async with open_runtime(settings, concurrency=0) as runtime:
        made = await runtime.bus.call(OWNER, "sql_execute", {"sql": SQL_TABLE})
        assert not made.is_error, made.text
        await runtime.services.agents.save(
            OWNER, "small", instructions="Count, then say what you did.", tools=["tally"],
            limits=AgentLimits(turns=3),
        )  # fmt: skip

        async def start(_: int) -> object:
            forced = {"tool_choice": "required", "max_tokens": 24}
            return await runtime.services.runs.start(OWNER, "small", "Count.", options=forced)

        with fragile_workers(data_dir, PLUGINS, workers=1, share=0.12, LLM_URL="gguf:") as workers:
            torment = Torment(runtime, workers, start, None, EMBEDDED_POINTS, runs=1, live=1)
            runs = await torment.endure()
        wrong = [problem for run in runs for problem in await check_small(runtime, run)]
        await aftermath(torment, runs, wrong)


async def check_small(runtime: Runtime, run: str) -> list[str]:
    """Tell what is wrong with the calls that a model of no great sense made, one at least."""
    item = await runtime.services.runs.get(OWNER, run)
    events = await events_of(runtime, run)
    calls = [event for event in events if event["type"] == "tool_finished"]
    wrong = [] if calls else [f"{run}: it called nothing; {item['error']}"]
    if item["status"] == "completed":
        wrong += [f"{run}: {problem}" for problem in wrong_in(events)]
    elif (item["error"] or {}).get("code") != "limit_exceeded":
        wrong.append(f"{run}: {item['status']} {item['error']}")
    for number, call in enumerate(calls, 1):
        kind = call["text"].rpartition(" ")[2]
        times = 1 if call["is_error"] else await counted(runtime, run, f"call/{number}", kind)
        if times != 1:
            wrong.append(f"{run} call/{number}: done {times} times")
    return [*wrong, *[problem async for problem in stale(runtime, run)]]
