"""Agents whose conversation grows too long for their model: its older part is summed up, and they go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mcp_server.auth.principal import OWNER
from tests.doors.live import Live, open_live, serving
from tests.doors.narrow_model import NarrowModel

NOTES = 12
LONG = 5_000
MOST = 12_000
UNBOUNDED = 10**9


@pytest.fixture(scope="module")
async def world(anyio_backend: object, scratch: Path) -> AsyncIterator[tuple[Live, NarrowModel]]:
    model = NarrowModel(MOST)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(model.app))
        opened = open_live(scratch / "compaction", llm_url=(f"{upstream}/v1",))
        live = await stack.enter_async_context(opened)
        kv = live.runtime.services.kv
        for number in range(1, NOTES + 1):
            await kv.set(OWNER, "default", f"note-{number}", f"note {number} {'x' * LONG}")
        yield live, model


@pytest.fixture
def live(world: tuple[Live, NarrowModel]) -> Live:
    return world[0]


@pytest.fixture
def model(world: tuple[Live, NarrowModel]) -> NarrowModel:
    world[1].read, world[1].summed_up, world[1].most = [], [], MOST
    return world[1]


async def call(live: Live, tool: str, **arguments: Any) -> Any:
    result = await live.runtime.bus.call(OWNER, tool, arguments)
    assert not result.is_error, result.text
    return result.structured


async def run(live: Live, given: Any, **limits: Any) -> tuple[Any, list[Any]]:
    """Run an agent to its end, and return its run and what it told."""
    fields: dict[str, Any] = {"instructions": "Be brief.", "model": "narrow", "tools": ["kv_get"]}
    await call(live, "agent_save", name="reader", limits=limits or None, **fields)
    done = await call(live, "agent_run", agent="reader", input=given)
    events = await call(live, "run_events", run=done["run"])
    return await call(live, "run_get", run=done["run"]), events["items"]


def of_type(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event["type"] == kind]


def check_pairs(conversation: list[dict[str, Any]]) -> None:
    """See that each result stands behind its call, and each call before its result."""
    made = [call["id"] for each in conversation for call in each.get("tool_calls") or ()]
    assert [each["tool_call_id"] for each in conversation if each["role"] == "tool"] == made


async def test_a_run_of_many_calls_goes_on_with_a_summary(live: Live, model: NarrowModel) -> None:
    done, events = await run(live, f"Read {NOTES} of them.")
    assert (done["status"], done["output"]) == ("completed", f"I read {NOTES} notes.")
    calls = Counter(event["arguments"] for event in of_type(events, "tool_started"))
    assert (len(calls), set(calls.values())) == (NOTES, {1})
    compacted = of_type(events, "context_compacted")
    assert len(compacted) >= 2
    assert all(event["messages"] >= 2 for event in compacted)
    # Each summary holds what the one before said.
    assert "I have read up to note" in model.summed_up[1]
    for conversation in model.read:
        check_pairs(conversation)
        assert [each["role"] for each in conversation[:2]] == ["system", "user"]
        assert f"Read {NOTES} of them." in conversation[1]["content"]
    turns = of_type(events, "turn_finished")
    used = sum(event["usage"]["total_tokens"] for event in [*turns, *compacted])
    assert done["usage"]["total_tokens"] == used

    trace = await call(live, "run_trace", run=done["run"])
    steps = [step for step in trace["steps"] if step["kind"] == "compaction"]
    assert [step["result"] for step in steps] == [event["summary"] for event in compacted]
    reads = [step["messages"] for step in trace["steps"] if step["kind"] == "turn"]
    assert reads == [len(conversation) for conversation in model.read]


async def test_a_limit_of_its_own_compacts_before_the_model_refuses(
    live: Live, model: NarrowModel
) -> None:
    model.most = UNBOUNDED
    done, events = await run(live, f"Read {NOTES} of them.", context_tokens=3_000)
    assert done["output"] == f"I read {NOTES} notes."
    assert of_type(events, "context_compacted")
    sizes = [sum(len(str(each.get("content"))) for each in talk) for talk in model.read]
    assert max(sizes) < 3_000 * 4 + 2 * LONG


async def test_what_was_said_before_is_summed_up_and_the_request_stays(
    live: Live, model: NarrowModel
) -> None:
    before = [
        {"role": role, "content": f"{role} {number} {'y' * 2_000}"}
        for number in range(4)
        for role in ("user", "assistant")
    ]
    done, events = await run(live, [*before, {"role": "user", "content": "Read 0 of them."}])
    assert done["output"] == "I read 0 notes."
    (compacted,) = of_type(events, "context_compacted")
    assert compacted["messages"] == len(before)
    (conversation,) = model.read
    assert [each["role"] for each in conversation] == ["system", "user"]
    assert conversation[1]["content"].endswith("Read 0 of them.")


async def test_a_result_that_is_too_long_by_itself_is_cut(live: Live, model: NarrowModel) -> None:
    await call(live, "kv_set", key="note-1", value=f"note 1 {'x' * 3 * MOST}")
    try:
        done, events = await run(live, "Read 1 of them.")
    finally:
        await call(live, "kv_set", key="note-1", value=f"note 1 {'x' * LONG}")
    assert done["output"] == "I read 1 notes."
    (compacted,) = of_type(events, "context_compacted")
    assert (compacted["messages"], compacted["summary"]) == (0, None)
    assert "characters left out]" in model.read[-1][-1]["content"]


async def test_a_request_that_is_too_long_by_itself_fails_and_says_so(
    live: Live, model: NarrowModel
) -> None:
    done, events = await run(live, f"Read 1 of them. {'z' * MOST}")
    assert done["status"] == "failed"
    assert "too long" in done["error"]["message"]
    assert not of_type(events, "context_compacted")
    assert model.read == []
