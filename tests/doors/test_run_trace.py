"""run_trace: what a run was asked, did and waited for, with its times, to whoever may read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text

from mcp_server.auth.principal import OWNER
from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live

TURNS = """
turns:
- tool_calls:
  - {name: kv_set, arguments: {key: traced, value: {password: hunter2, city: Bern}}}
- tool_calls:
  - {name: kv_get, arguments: {key: nowhere}}
- text: It is kept.
"""
AGENT = {
    "name": "tracer",
    "instructions": "Keep what you are told.",
    "tools": ["kv_set", "kv_get"],
    "approve": ["kv_set"],
}


@pytest.fixture(scope="module")
async def live(
    anyio_backend: object, scratch: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Live]:
    script = tmp_path_factory.mktemp("script") / "turns.yaml"
    script.write_text(TURNS)
    async with open_live(scratch / "traces", llm_url=(f"scripted:{script}",)) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


async def ask(
    http: aiohttp.ClientSession, live: Live, tool: str, key: str | None = None, **given: Any
) -> Any:
    answer = await raw.call(http, live.url, key or live.key, tool, given)
    assert not answer.result.get("isError"), answer.result
    return answer.result["structuredContent"]


async def refusal(http: aiohttp.ClientSession, live: Live, key: str, **given: Any) -> str:
    answer = await raw.call(http, live.url, key, "run_trace", given)
    assert answer.result["isError"], answer.result
    return answer.result["content"][0]["text"]


async def asking(http: aiohttp.ClientSession, live: Live) -> str:
    """Start a run that waits for an approval."""
    await ask(http, live, "agent_save", **AGENT)
    begun = await ask(http, live, "agent_run", agent="tracer", input="Keep: Bern.")
    assert begun["status"] == "input_required"
    return begun["run"]


async def ended(http: aiohttp.ClientSession, live: Live, run: str) -> Any:
    """Approve, and return the trace of the run once it has ended."""
    key = (await make_key(live, "run", user="ada"))["key"]
    await ask(http, live, "run_input", key, run=run, answer={"approved": True})
    async with asyncio.timeout(20):
        while (trace := await ask(http, live, "run_trace", run=run))["ended_at"] is None:
            await asyncio.sleep(0.05)
    return trace


async def compacted(live: Live, run: str) -> None:
    """Wait for the end of a run, and until its events are merged and its secrets taken out."""
    is_done = text("select compacted from runs where id = :run")
    async with asyncio.timeout(30), live.runtime.engines.control.connect() as tx:
        while not await tx.scalar(is_done, {"run": run}):
            await tx.rollback()
            await live.runtime.stores.sweep.compact()


def at(value: str) -> datetime:
    return datetime.fromisoformat(value)


async def test_a_trace_tells_what_a_run_was_asked_and_did_step_by_step(
    live: Live, http: aiohttp.ClientSession
) -> None:
    saved = await ask(http, live, "agent_save", **AGENT)
    run = await asking(http, live)
    waiting = await ask(http, live, "run_trace", run=run)
    approval = waiting["steps"][-1]
    assert (approval["kind"], approval["ended_at"]) == ("approval", None)

    trace = await ended(http, live, run)
    assert (trace["status"], trace["error"], trace["attempts"]) == ("completed", None, 2)
    assert trace["agent"] == "tracer"
    assert trace["agent_version"] > saved["version"]
    assert trace["trace_id"] == run.removeprefix("run_")
    assert trace["prompt"] == {
        "instructions": "Keep what you are told.",
        "messages": [{"role": "user", "content": "Keep: Bern."}],
        "total": 1,
    }
    steps = trace["steps"]
    assert [step["kind"] for step in steps] == [
        *("attempt", "turn", "approval", "attempt", "call", "turn", "call", "turn")
    ]
    assert [step["attempt"] for step in steps] == [1, 1, 1, 2, 2, 2, 2, 2]
    first, turn, approval, second, kept, _, got, last = steps
    assert (first["ended_as"], second["ended_as"]) == ("input_required", "completed")
    assert first["worker"] == second["worker"] is not None
    assert approval["by"] == "ada"
    assert approval["answer"] == {"approved": True}
    assert approval["about"]["name"] == kept["name"] == "kv_set"
    assert turn["finish_reason"] == "tool_calls"
    # The system's and the user's message; then twice the model's own, and a result.
    assert (turn["messages"], last["messages"]) == (2, 6)
    assert turn["usage"]["prompt_tokens"] > 0
    assert (kept["is_error"], got["is_error"]) == (False, True)
    # The call began when it was allowed.
    assert at(kept["started_at"]) >= at(approval["ended_at"])
    assert got["result"].startswith("not_found: ")


async def test_steps_begin_in_order_and_last_as_long_as_they_did(
    live: Live, http: aiohttp.ClientSession
) -> None:
    trace = await ended(http, live, await asking(http, live))
    begun = [at(step["started_at"]) for step in trace["steps"]]
    assert begun == sorted(begun)
    assert at(trace["created_at"]) <= begun[0]
    assert at(trace["steps"][3]["ended_at"]) <= at(trace["ended_at"])
    for step in trace["steps"]:
        lasted = (at(step["ended_at"]) - at(step["started_at"])).total_seconds()
        assert step["seconds"] == pytest.approx(lasted, abs=0.001)


async def test_a_trace_is_the_same_after_compaction(
    live: Live, http: aiohttp.ClientSession
) -> None:
    run = await asking(http, live)
    key = (await make_key(live, "run", user="ada"))["key"]
    before = await ask(http, live, "run_trace", run=run)
    await ask(http, live, "run_input", key, run=run, answer={"approved": False, "reason": "no"})
    await compacted(live, run)
    after = await ask(http, live, "run_trace", run=run)
    assert after["steps"][-1]["kind"] == "turn"
    for early, late in zip(before["steps"], after["steps"], strict=False):
        for name in ("kind", "event", "attempt"):
            assert early[name] == late[name]
        moved = at(early["started_at"]) - at(late["started_at"])
        assert abs(moved.total_seconds()) <= 0.001
    refused = after["steps"][4]
    assert refused["result"] == "forbidden: the call was refused: no"


async def test_values_of_secret_fields_are_redacted_while_the_run_lives(
    live: Live, http: aiohttp.ClientSession
) -> None:
    run = await asking(http, live)
    for trace in (await ask(http, live, "run_trace", run=run), await ended(http, live, run)):
        assert "hunter2" not in str(trace)
        assert "[redacted]" in str(trace)
        assert "Bern" in str(trace["steps"])


async def test_the_prompt_of_a_trace_is_what_the_model_was_told_without_secret_variables(
    live: Live, http: aiohttp.ClientSession
) -> None:
    await ask(
        http,
        live,
        "agent_save",
        name="filled",
        instructions="Speak {{language}} to {{ reader }}; say {{token}} to nobody but {{reader}}.",
        variables={"reader": None, "token": None, "language": "Thai"},
    )
    secret = "swordfish"
    given = {"reader": "Ada", "token": secret}
    done = await ask(http, live, "agent_run", agent="filled", input="Go.", variables=given)
    told = "Speak Thai to Ada; say [redacted] to nobody but Ada."
    trace = await ask(http, live, "run_trace", run=done["run"])
    assert trace["prompt"]["instructions"] == told
    # What is kept of a run that has ended is without it as well.
    await compacted(live, done["run"])
    trace = await ask(http, live, "run_trace", run=done["run"])
    assert trace["prompt"]["instructions"] == told
    async with live.runtime.engines.control.connect() as tx:
        row = await tx.execute(
            text("select runs::text from runs where id = :id"), {"id": done["run"]}
        )
        assert secret not in row.scalar_one()


async def test_pages_of_a_trace_are_its_steps_each_once(
    live: Live, http: aiohttp.ClientSession
) -> None:
    whole = await ended(http, live, await asking(http, live))
    steps: list[Any] = []
    cursor: str | None = None
    while True:
        given = {"run": whole["run"], "limit": 3} | ({"cursor": cursor} if cursor else {})
        page = await ask(http, live, "run_trace", **given)
        assert len(page["steps"]) <= 3
        steps += page["steps"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert steps == whole["steps"]
    refused = await refusal(http, live, live.key, run=whole["run"], cursor="bm9wZQ")
    assert refused == (
        "invalid_input: cursor: it is none of a trace; pass next_cursor of the page before"
    )


async def test_a_run_tells_the_runs_that_it_began_and_they_tell_it(
    live: Live, http: aiohttp.ClientSession
) -> None:
    runs = live.runtime.services.runs
    run = await asking(http, live)
    child = await runs.start(OWNER, "tracer", "Keep: Basel.", origin=f"run://{run}")
    trace = await ask(http, live, "run_trace", run=run)
    (told,) = trace["children"]
    assert (told["run"], told["agent"]) == (child["run"], "tracer")
    assert not trace["children_left_out"]
    of_child = await ask(http, live, "run_trace", run=child["run"])
    assert (of_child["parent"], of_child["origin"]) == (run, None)
    assert trace["parent"] is None


async def test_a_trace_is_for_those_who_may_read_the_run(
    live: Live, http: aiohttp.ClientSession
) -> None:
    run = await asking(http, live)
    missing = "run_" + "0" * 32
    stranger = (await make_key(live, "read", tenant="stranger"))["key"]
    foreign = await refusal(http, live, stranger, run=run)
    assert foreign.replace(run, missing) == await refusal(http, live, stranger, run=missing)
    other = (await make_key(live, "read:kv://*"))["key"]
    assert (await refusal(http, live, other, run=run)).startswith("forbidden: ")
    reader = (await make_key(live, f"read:run://{run}"))["key"]
    assert (await ask(http, live, "run_trace", reader, run=run))["run"] == run
