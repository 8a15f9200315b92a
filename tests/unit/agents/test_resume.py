"""A loop that is interrupted anywhere and run again ends as if nothing had been, and does nothing twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server.agents.events import Finished, LoopLimits
from mcp_server.agents.loop import ToolOutcome, run_loop
from mcp_server.agents.steps import CallRules, told_in
from mcp_server.agents.work import _stored
from mcp_server.errors import AppError, LeaseLost, Timeout, Unavailable
from mcp_server.runs import in_doubt
from mcp_server.runs.cleaning import clean
from tests.unit.agents.conftest import (
    ByConversation,
    Interrupted,
    Script,
    StoredRun,
    Tools,
    Waiting,
    calls,
    says,
)

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
JSON = {"response_format": {"type": "json_object"}}

TURNS = st.lists(
    st.tuples(
        st.sampled_from(["", "One moment", "a\n", "nul \0 and half \ud83d"]),
        st.lists(st.sampled_from(["add", "look", "nope", "broken"]), max_size=3),
    ),
    max_size=4,
)
LIMITS = st.builds(
    LoopLimits,
    turns=st.sampled_from([2, 16]),
    tool_calls=st.sampled_from([1, 3, 64]),
    output_chars=st.sampled_from([60, 1_000_000]),
    invalid_turns=st.sampled_from([1, 3]),
)


class Counted(Tools):
    """A tool whose effect happens once for each key, and may be interrupted before or after it."""

    def __init__(self, run: StoredRun) -> None:
        super().__init__(add=self._nothing, look=self._nothing)
        self.run = run
        self.effects: dict[str | None, dict[str, Any]] = {}

    async def _nothing(self, _: dict[str, Any]) -> ToolOutcome:
        raise NotImplementedError

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        self.run.moment()
        self.effects.setdefault(key, {"name": name, "arguments": arguments})
        self.run.moment()
        return ToolOutcome(f"{name} {json.dumps(self.effects[key])}", is_error=name == "look")


def script_of(turns: list[tuple[str, list[str]]]) -> list[Any]:
    made = [
        calls(
            *((name, "{oops" if name == "broken" else {"n": i}) for i, name in enumerate(named)),
            text=text,
            finish_reason="tool_calls" if named else "stop",
        )
        for text, named in turns
    ]
    return [*made, says('{"done"', ": true}")]


async def attempt(
    run: StoredRun, model: Any, tools: Any, moments: int, *, flush: int = 3, **more: Any
) -> Finished:
    """Make one attempt that is cut after some moments; every third event reaches the log at once."""
    run.moments_left = moments
    run.pending = []
    loop = run_loop(
        model, tools, more.pop("request", ASK), steps=run, told=told_in(run.log), **more
    )
    async with aclosing(loop) as events:
        async for event in events:
            if isinstance(event, Finished):
                return event
            run.emit(_stored(event), flush=len(run.log + run.pending) % flush == 0)
    raise AssertionError("no end")


async def perform(cuts: list[int], turns: Any, **more: Any) -> tuple[Any, StoredRun, Counted]:
    run = StoredRun()
    tools = Counted(run)
    model = ByConversation(*script_of(turns))
    model.moment = run.moment
    for moments in cuts:
        try:
            end = await attempt(run, model, tools, moments, **more)
        except Interrupted:
            continue
        run.moments_left = 10**9
        run.log += run.pending
        return end, run, tools
    return await attempt(run, model, tools, 10**9, **more), run, tools


def shown(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give what a follower keeps: no incomplete text, and the pieces of a turn's text in one."""
    kept: list[dict[str, Any]] = []
    for event in log:
        if event["type"] == "turn_incomplete":
            kept = [e for e in kept if e.get("turn") != event["turn"]]
        elif event["type"] == "text" and kept and kept[-1].get("field") == event["field"]:
            kept[-1] = kept[-1] | {"text": kept[-1]["text"] + event["text"]}
        else:
            kept.append(event)
    return kept


@settings(max_examples=300, deadline=None)
@given(
    turns=TURNS,
    limits=LIMITS,
    request=st.sampled_from([ASK, ASK | JSON]),
    cuts=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    flush=st.integers(1, 4),
)
def test_an_interrupted_loop_ends_as_one_that_was_not(
    turns: Any, limits: LoopLimits, request: Any, cuts: list[int], flush: int
) -> None:
    given_: Any = {"limits": limits, "request": request}
    whole, unbroken, once = asyncio.run(perform([], turns, **given_))
    end, run, tools = asyncio.run(perform(cuts, turns, flush=flush, **given_))

    assert clean(asdict(end)) == clean(asdict(whole))  # as the end is stored
    assert tools.effects == once.effects
    unbroken.log += unbroken.pending
    run.log += run.pending
    assert shown(run.log) == shown(unbroken.log)
    told = Counter(event["type"] for event in run.log)
    assert told["tool_started"] == told["tool_finished"]


@pytest.mark.parametrize(
    ("limits", "request_", "effects"),
    [
        (LoopLimits(), ASK, 3),
        (LoopLimits(), ASK | JSON, 3),
        (LoopLimits(turns=2), ASK, 1),
        (LoopLimits(tool_calls=2), ASK, 2),
        (LoopLimits(output_chars=25), ASK, 1),
    ],
)
async def test_every_cut_of_one_run_leads_to_the_same_end(
    limits: LoopLimits, request_: Any, effects: int
) -> None:
    turns = [("First", ["add", "nope"]), ("and then", ["add", "add"])]
    more: Any = {"limits": limits, "request": request_}
    whole, unbroken, once = await perform([], turns, **more)
    moments = 10**9 - unbroken.moments_left
    assert len(once.effects) == effects
    for cut in range(moments):
        end, _, tools = await perform([cut], turns, **more)
        assert (end, tools.effects) == (whole, once.effects)


async def test_a_finished_step_is_neither_asked_nor_called_nor_told_again(script: Script) -> None:
    run = StoredRun()
    model = script.model(script.calls(("echo", {"n": 1})), script.says("done"))
    tools = script.tools(echo=script.echo)
    first = await attempt(run, model, tools, 10**9)
    done = len(model.requests), len(tools.calls), [*run.log]
    assert await attempt(run, model, tools, 10**9) == first
    assert (len(model.requests), len(tools.calls), run.log + run.pending) == done


async def test_of_calls_that_run_at_once_the_finished_ones_are_not_made_again(
    script: Script,
) -> None:
    """The last of three ends first and is stored while the others run, and a crash ends these."""
    run = StoredRun()

    async def work(arguments: dict[str, Any]) -> ToolOutcome:
        if len(tools.calls) <= 3 and arguments["n"] < 2:
            while "call/3" not in run.results:
                await asyncio.sleep(0)
            raise Interrupted
        return ToolOutcome(f"did {arguments['n']}")

    tools = script.tools(work=work)
    model = script.model(script.calls(*(("work", {"n": n}) for n in range(3))), script.says("ok"))
    with pytest.raises(Interrupted):
        await attempt(run, model, tools, 10**9, flush=1)
    end = await attempt(run, model, tools, 10**9)
    assert [key for *_, key in tools.calls] == [
        *("run_1/call/1", "run_1/call/2", "run_1/call/3"),
        *("run_1/call/1", "run_1/call/2"),
    ]
    assert [message["content"] for message in end.transcript[1:4]] == ["did 0", "did 1", "did 2"]
    told = [(e["type"], e["number"]) for e in run.log if e["type"].startswith("tool_")]
    assert told == [
        *(("tool_started", n) for n in (1, 2, 3)),
        *(("tool_finished", n) for n in (1, 2, 3)),
    ]


async def test_an_answer_is_stored_before_any_of_its_calls(script: Script) -> None:
    """A model that answers differently each time is not asked again once a call may have run."""
    run = StoredRun()

    async def stored(arguments: dict[str, Any]) -> ToolOutcome:
        assert "turn/1" in run.results
        if len(tools.calls) == 1:
            raise Interrupted
        return ToolOutcome(json.dumps(arguments))

    tools = script.tools(echo=stored)
    model = script.model(
        script.calls(("echo", {"n": 1})), script.says("ok"), script.calls(("echo", {"n": 2}))
    )
    with pytest.raises(Interrupted):
        await attempt(run, model, tools, 10**9)
    await attempt(run, model, tools, 10**9)
    assert tools.calls == [("echo", {"n": 1}, "run_1/call/1")] * 2


async def test_each_attempt_gives_a_call_the_same_arguments_whatever_the_model_wrote(
    script: Script,
) -> None:
    run = StoredRun()

    async def cut_once(_: dict[str, Any]) -> ToolOutcome:
        if len(tools.calls) == 1:
            raise Interrupted
        return ToolOutcome("ok")

    tools = script.tools(echo=cut_once)
    model = script.model(script.calls(("echo", '{"half": "\ud83d"}')), script.says("ok"))
    with pytest.raises(Interrupted):
        await attempt(run, model, tools, 10**9)
    await attempt(run, model, tools, 10**9)
    assert tools.calls[0] == tools.calls[1]


async def test_a_turn_that_was_told_in_part_is_closed_as_incomplete(script: Script) -> None:
    run = StoredRun()
    cut = script.model([*script.says("Hal", "f")[:3]])
    with pytest.raises(Unavailable, match="broke off"):
        await attempt(run, cut, script.tools(), 10**9, flush=1)
    end = await attempt(run, script.model(script.says("Whole")), script.tools(), 10**9, flush=1)
    assert [event["type"] for event in run.log] == [
        *("text", "text", "turn_incomplete", "text", "turn_finished")
    ]
    assert end.message["content"] == "Whole"
    assert told_in(run.log[:4]).open_turns == {1}
    assert told_in(run.log[:3]).open_turns == set()


async def test_a_turn_of_which_nothing_was_told_just_begins(script: Script) -> None:
    run = StoredRun()
    with pytest.raises(Unavailable):
        await attempt(run, script.model(Unavailable("away")), script.tools(), 10**9)
    await attempt(run, script.model(script.says("Hi")), script.tools(), 10**9)
    assert [event["type"] for event in run.log] == ["text", "turn_finished"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_doubt, "PAUSES", (0.0, 0.0, 0.0))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("failure", [Unavailable("an engine does not answer"), LeaseLost()])
@pytest.mark.parametrize("raised", [True, False])
async def test_a_call_in_doubt_is_made_again_with_its_key(
    script: Script, failure: AppError, raised: bool
) -> None:
    run = StoredRun()

    async def twice_away(_: dict[str, Any]) -> ToolOutcome:
        if len(tools.calls) > 2:
            return ToolOutcome("done")
        if raised:
            raise failure
        return ToolOutcome(str(failure), is_error=True)

    tools = script.tools(away=twice_away)
    model = script.model(script.calls(("away", {})), script.says("ok"))
    await attempt(run, model, tools, 10**9)
    assert tools.calls == [("away", {}, "run_1/call/1")] * 3
    assert run.results["call/1"]["text"] == "done"
    # The store is asked in between: it waits through an outage, and knows whether the run is lost.
    assert run.begins == ["call/1", "call/1"]


@pytest.mark.usefixtures("quick")
async def test_what_stays_in_doubt_is_told_to_the_model_in_the_end(script: Script) -> None:
    async def away(_: dict[str, Any]) -> ToolOutcome:
        raise Unavailable("an engine does not answer")

    run = StoredRun()
    tools = script.tools(away=away)
    model = script.model(script.calls(("away", {})), script.says("sorry"))
    end = await attempt(run, model, tools, 10**9)
    assert len(tools.calls) == 4
    assert end.transcript[1]["content"].startswith("unavailable: an engine does not answer\nTry")


@pytest.mark.usefixtures("quick")
async def test_a_call_that_takes_long_to_fail_is_repeated_once(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_doubt, "TRYING_SECONDS", 0.001)

    async def slow(_: dict[str, Any]) -> ToolOutcome:
        await asyncio.sleep(0.02)
        raise Timeout("the statement took too long")

    tools = script.tools(slow=slow)
    model = script.model(script.calls(("slow", {})), script.says("sorry"))
    await attempt(StoredRun(), model, tools, 10**9)
    assert len(tools.calls) == 2


async def test_a_run_that_is_lost_records_nothing_more(script: Script) -> None:
    run = StoredRun()

    async def lost(_: dict[str, Any]) -> ToolOutcome:
        run.moments_left = 0  # the store knows it, and does not return
        raise LeaseLost

    tools = script.tools(lost=lost)
    with pytest.raises(Interrupted):
        await attempt(run, script.model(script.calls(("lost", {}))), tools, 10**9)
    assert len(tools.calls) == 1
    assert "call/1" not in run.results


async def test_the_time_limit_holds_while_a_call_is_tried_again(script: Script) -> None:
    async def away(_: dict[str, Any]) -> ToolOutcome:
        raise Unavailable("an engine does not answer")

    tools = script.tools(away=away)
    model = script.model(script.calls(("away", {})))
    limits = LoopLimits(seconds=0.05)
    run = StoredRun()
    with anyio.fail_after(5):
        end = await attempt(run, model, tools, 10**9, limits=limits)
    assert end.stopped == "seconds"
    again = await attempt(run, model, tools, 10**9)
    assert (again, len(model.requests)) == (end, 1)


async def interrupted_call(script: Script, rules: CallRules) -> tuple[Any, Any, Any]:
    run = StoredRun()

    async def once_cut(_: dict[str, Any]) -> ToolOutcome:
        if len(tools.calls) == 1:
            raise Interrupted
        return ToolOutcome("sent")

    tools = script.tools(send=once_cut)
    tools.unrepeatable = {"send"}
    model = script.model(script.calls(("send", {})), script.says("ok"))
    with pytest.raises(Interrupted):
        await attempt(run, model, tools, 10**9, rules=rules)
    return run, model, tools


async def test_an_interrupted_call_that_cannot_be_repeated_ends_the_run_as_unsure(
    script: Script,
) -> None:
    run, model, tools = await interrupted_call(script, CallRules())
    with pytest.raises(AppError, match="tool send: step call/1") as caught:
        await attempt(run, model, tools, 10**9)
    assert caught.value.code == "unsure"
    assert len(tools.calls) == 1


async def test_an_interrupted_call_is_made_again_if_the_agent_says_so(script: Script) -> None:
    rules = CallRules(unsure="retry")
    run, model, tools = await interrupted_call(script, rules)
    end = await attempt(run, model, tools, 10**9, rules=rules)
    assert (end.message["content"], len(tools.calls)) == ("ok", 2)


@pytest.mark.usefixtures("quick")
async def test_a_call_that_cannot_be_repeated_is_not_tried_again_on_its_own(script: Script) -> None:
    async def away(_: dict[str, Any]) -> ToolOutcome:
        raise Unavailable("no answer")

    tools = script.tools(send=away)
    tools.unrepeatable = {"send"}
    model = script.model(script.calls(("send", {})), script.says("sorry"))
    end = await attempt(StoredRun(), model, tools, 10**9)
    assert (len(tools.calls), end.message["content"]) == (1, "sorry")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"approved": True}, '{"n": 1}'),
        (True, '{"n": 1}'),
        ({"approved": False, "reason": "too dear"}, "forbidden: the call was refused: too dear"),
        ({"approved": False}, "forbidden: the call was refused"),
        ({"approved": "yes"}, "forbidden: the call was refused"),
        (None, "forbidden: the call was refused"),
    ],
)
async def test_a_call_waits_for_approval_where_the_agent_says_so(
    script: Script, answer: Any, told: str
) -> None:
    run = StoredRun()
    rules = CallRules(approve=frozenset({"echo"}))
    tools = script.tools(echo=script.echo, free=script.echo)
    turn = script.calls(("echo", {"n": 1}), ("free", {}))
    model = script.model(turn, script.says("ok"))
    with pytest.raises(Waiting):
        await attempt(run, model, tools, 10**9, rules=rules)
    assert [call[0] for call in tools.calls] == ["free"]  # it stands behind, and need not wait
    asked = run.asked["approve/1"]
    assert asked["kind"] == "approval"
    assert asked["message"] == 'May the agent call echo with {"n": 1}?'
    assert asked["schema"]["required"] == ["approved"]
    run.log += run.pending

    run.answers["approve/1"] = answer
    end = await attempt(run, model, tools, 10**9, rules=rules)
    assert end.transcript[1]["content"].splitlines()[0] == told
    assert len(tools.calls) == (2 if told.startswith("{") else 1)
    assert Counter(event["type"] for event in run.log)["tool_started"] == 2


async def test_a_loop_without_steps_gives_its_calls_no_key(script: Script) -> None:
    tools = script.tools(echo=script.echo)
    tools.unrepeatable = {"echo"}
    model = script.model(script.calls(("echo", {})), script.says("ok"))
    async with aclosing(run_loop(model, tools, ASK)) as events:
        assert [event async for event in events]
    assert tools.calls == [("echo", {}, None)]
