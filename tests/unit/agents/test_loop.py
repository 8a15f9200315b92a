"""The loop of model and tools: what it says, what it runs, and how it ends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from mcp_server.agents.loop import (
    Finished,
    LoopEvent,
    LoopLimits,
    TextDelta,
    ToolFinished,
    ToolOutcome,
    ToolStarted,
    TurnFinished,
    run_loop,
)
from mcp_server.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Timeout,
    Unauthenticated,
    Unavailable,
)

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}
SEARCH = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}


async def collect(model: Any, tools: Any, request: Any = ASK, **more: Any) -> list[LoopEvent]:
    async with aclosing(run_loop(model, tools, request, **more)) as events:
        return [event async for event in events]


def end(events: list[LoopEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Finished) for event in events) == 1
    said = "".join(e.text for e in events if isinstance(e, TextDelta) and e.field == "content")
    assert (events[-1].message["content"] or "") == said
    return events[-1]


async def test_an_answer_without_tools_streams_as_it_comes(script: Any) -> None:
    model = script.model(script.says("Hel", "lo"))
    events = await collect(model, script.tools())
    assert [type(event) for event in events] == [TextDelta, TextDelta, TurnFinished, Finished]
    done = end(events)
    assert done.message == {"role": "assistant", "content": "Hello", "refusal": None}
    assert (done.finish_reason, done.stopped, done.client_calls) == ("stop", None, [])
    assert "tools" not in model.requests[0]
    assert model.requests[0]["temperature"] == 0.5
    assert ASK["messages"] == [{"role": "user", "content": "hi"}]


async def test_tools_run_in_order_and_their_results_reach_the_next_turn(script: Any) -> None:
    model = script.model(
        script.calls(("echo", {"n": 1}), ("echo", {"n": 2}), text="Wait."), script.says("done")
    )
    tools = script.tools(echo=script.echo)
    events = await collect(model, tools, steps=script.stored_run())
    assert tools.calls == [("echo", {"n": 1}, "run_1/call/1"), ("echo", {"n": 2}, "run_1/call/2")]
    asked = model.requests[1]["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "tool", "tool"]
    assert asked[3] == {"role": "tool", "tool_call_id": "call_echo_1", "content": '{"n": 2}'}
    done = end(events)
    assert done.message["content"] == "Wait.\n\ndone"
    assert done.finish_reason == "stop"
    assert "tool_calls" not in done.message
    assert done.usage["total_tokens"] == 4
    assert done.usage["prompt_tokens_details"] == {"cached_tokens": 2}
    started = next(event for event in events if isinstance(event, ToolStarted))
    assert started == ToolStarted("call_echo_0", "echo", '{"n": 1}', 1, number=1)


async def test_a_json_answer_holds_only_the_last_turns_text(script: Any) -> None:
    request = ASK | {"response_format": {"type": "json_schema", "json_schema": {}}}
    model = script.model(script.calls(("echo", {}), text="Let me see"), script.says('{"a"', ":1}"))
    done = end(await collect(model, script.tools(echo=script.echo), request))
    assert done.message["content"] == '{"a":1}'


async def test_a_call_to_the_clients_tool_ends_the_turn_after_the_servers_own(script: Any) -> None:
    request = ASK | {"tools": [SEARCH]}
    model = script.model(script.calls(("search", {"q": 1}), ("echo", {"n": 1})))
    tools = script.tools(echo=script.echo)
    done = end(await collect(model, tools, request, client_tools=frozenset({"search"})))
    assert [call[0] for call in tools.calls] == ["echo"]
    assert done.finish_reason == "tool_calls"
    assert [call["function"]["name"] for call in done.message["tool_calls"]] == ["search"]
    assert done.message["tool_calls"] == done.client_calls
    assert done.message["content"] is None
    assert [message["role"] for message in done.transcript] == ["assistant", "tool"]
    assert len(model.requests[0]["tools"]) == 2


async def test_a_clients_tool_hides_the_servers_of_the_same_name(script: Any) -> None:
    request = ASK | {"tools": [SEARCH]}
    tools = script.tools(search=script.echo)
    model = script.model(script.calls(("search", {})))
    done = end(await collect(model, tools, request, client_tools=frozenset({"search"})))
    assert tools.calls == []
    assert len(done.client_calls) == 1
    assert model.requests[0]["tools"] == [SEARCH]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("nope", {}), "not_found: there is no tool 'nope'; there are: echo"),
        (("echo", "{oops"), "invalid_input: the arguments of echo are not a JSON object"),
        (("echo", "[1]"), "invalid_input: the arguments of echo are not a JSON object"),
    ],
)
async def test_a_wrong_call_is_told_to_the_model_which_may_mend_it(
    script: Any, call: tuple[str, Any], told: str
) -> None:
    model = script.model(script.calls(call), script.calls(("echo", {})), script.says("ok"))
    tools = script.tools(echo=script.echo)
    events = await collect(model, tools)
    first = next(event for event in events if isinstance(event, ToolFinished))
    assert first.is_error
    assert first.text.startswith(told)
    assert len(tools.calls) == 1
    assert end(events).stopped is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotFound("key 'a'"), "not_found: key 'a'\nIt failed for good"),
        (LimitExceeded("the rate"), "limit_exceeded: the rate\nTry again: "),
        (Unavailable("down"), "unavailable: down\nTry again: "),
        (Timeout("late"), "timeout: late\nTry again: "),
        (Conflict("version is 3"), "conflict: version is 3\nTry again with what is there now"),
        (InvalidInput("n: 5"), "invalid_input: n: 5\nIt failed for good as it is: mend"),
        (Forbidden("no"), "forbidden: no\nIt failed for good: do not repeat"),
        ("Boom", "failed: Boom\nIt failed for good: do not repeat"),
    ],
)
async def test_a_tools_error_tells_the_model_whether_to_try_again(
    script: Any, error: Exception | str, told: str
) -> None:
    async def fails(_: dict[str, Any]) -> ToolOutcome:
        if isinstance(error, str):
            return ToolOutcome(error, is_error=True)
        raise error

    model = script.model(script.calls(("bad", {})), script.says("sorry"))
    events = await collect(model, script.tools(bad=fails))
    assert model.requests[1]["messages"][-1]["content"].startswith(told)
    assert end(events).message["content"] == "sorry"
    finished = next(event for event in events if isinstance(event, ToolFinished))
    assert finished.text == str(error)


async def test_a_model_that_repeats_one_failing_call_is_stopped_with_the_reason(
    script: Any,
) -> None:
    async def fails(_: dict[str, Any]) -> ToolOutcome:
        return ToolOutcome("not_found: key 'a'", is_error=True)

    tools = script.tools(bad=fails, echo=script.echo)
    turn = script.calls(("bad", {"k": 1}), ("bad", {"k": 1}), ("echo", {}), text="Hm.")
    done = end(await collect(script.model(turn), tools))
    assert (done.stopped, len(tools.calls)) == ("repeated_calls", 12)
    assert done.message["content"].startswith("Hm.")


async def test_a_failing_call_that_works_in_the_end_or_changes_is_not_given_up(
    script: Any,
) -> None:
    left = iter(range(3))

    async def fails(arguments: dict[str, Any]) -> ToolOutcome:
        if arguments and next(left, None) is None:
            return ToolOutcome("ok")
        return ToolOutcome("unavailable: busy", is_error=True)

    turns = [script.calls(("bad", {"k": 1}))] * 5
    done = end(await collect(script.model(*turns, script.says("ok")), script.tools(bad=fails)))
    assert (done.stopped, done.message["content"]) == (None, "ok")


async def test_the_calls_of_one_turn_run_at_once_and_their_results_keep_their_order(
    script: Any,
) -> None:
    met = asyncio.Barrier(3)

    async def meets(arguments: dict[str, Any]) -> ToolOutcome:
        await met.wait()
        for _ in range(3 - arguments["n"]):  # the last one ends first
            await asyncio.sleep(0)
        return ToolOutcome(str(arguments["n"]))

    turn = script.calls(*(("meet", {"n": n}) for n in range(3)))
    model = script.model(turn, script.says("ok"))
    with anyio.fail_after(5):
        events = await collect(model, script.tools(meet=meets))
    told = [event.text for event in events if isinstance(event, ToolFinished)]
    read = [message["content"] for message in model.requests[1]["messages"][2:]]
    assert told == read == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("request_", "limits", "most"),
    [
        (ASK | {"parallel_tool_calls": False}, LoopLimits(), 1),
        (ASK, LoopLimits(at_once=1), 1),
        (ASK, LoopLimits(at_once=3), 3),
        (ASK, LoopLimits(tool_calls=2), 2),
    ],
)
async def test_no_more_calls_run_at_once_than_may(
    script: Any, request_: Any, limits: LoopLimits, most: int
) -> None:
    running: set[int] = set()
    seen: list[int] = []

    async def count(arguments: dict[str, Any]) -> ToolOutcome:
        running.add(arguments["n"])
        seen.append(len(running))
        for _ in range(5):
            await asyncio.sleep(0)
        running.discard(arguments["n"])
        return ToolOutcome("ok")

    model = script.model(script.calls(*(("count", {"n": n}) for n in range(7))), script.says("ok"))
    tools = script.tools(count=count)
    done = end(await collect(model, tools, request_, limits=limits))
    assert (max(seen), len(tools.calls)) == (most, min(7, limits.tool_calls))
    assert done.stopped == ("tool_calls" if limits.tool_calls == 2 else None)


async def test_an_ended_loop_ends_all_its_calls(script: Any) -> None:
    ended: list[int] = []
    both = asyncio.Barrier(3)

    async def hangs(arguments: dict[str, Any]) -> ToolOutcome:
        try:
            await both.wait()
            await anyio.sleep_forever()
        finally:
            ended.append(arguments["n"])
        raise AssertionError

    async def revoked(_: dict[str, Any]) -> ToolOutcome:
        await both.wait()
        raise Unauthenticated("the key was revoked")

    turn = script.calls(("hang", {"n": 1}), ("hang", {"n": 2}), ("bad", {}))
    with pytest.raises(Unauthenticated):
        await collect(script.model(turn), script.tools(hang=hangs, bad=revoked))
    assert sorted(ended) == [1, 2]

    both = asyncio.Barrier(3)
    turn = script.calls(("hang", {"n": 1}), ("hang", {"n": 2}))
    task = asyncio.create_task(collect(script.model(turn), script.tools(hang=hangs)))
    with anyio.fail_after(5):
        await both.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == [1, 1, 2, 2]


async def test_lost_rights_and_a_failing_model_end_the_loop_with_their_error(script: Any) -> None:
    async def revoked(_: dict[str, Any]) -> ToolOutcome:
        raise Unauthenticated("the key was revoked")

    with pytest.raises(Unauthenticated):
        await collect(script.model(script.calls(("bad", {}))), script.tools(bad=revoked))
    with pytest.raises(Unavailable, match="gone"):
        await collect(script.model(Unavailable("gone")), script.tools())
    with pytest.raises(Unavailable, match="broke off"):
        await collect(script.model([script.chunk({"content": "half"})]), script.tools())


@pytest.mark.parametrize(
    ("choice", "then"),
    [
        ("required", "auto"),
        ({"type": "function", "function": {"name": "echo"}}, "auto"),
        ("none", "none"),
        ("auto", "auto"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [1]}},
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [1]}},
        ),
        (
            {"type": "allowed_tools", "mode": "required"},
            {"type": "allowed_tools", "mode": "auto"},
        ),
    ],
)
async def test_a_forced_choice_holds_for_the_first_turn_only(
    script: Any, choice: Any, then: Any
) -> None:
    model = script.model(script.calls(("echo", {})), script.says("ok"))
    await collect(model, script.tools(echo=script.echo), ASK | {"tool_choice": choice})
    assert [request["tool_choice"] for request in model.requests] == [choice, then]


@pytest.mark.parametrize(
    ("limits", "stopped", "ran"),
    [
        (LoopLimits(turns=3), "turns", 4),
        (LoopLimits(tool_calls=3), "tool_calls", 3),
        (LoopLimits(output_chars=100), "output", 2),
    ],
)
async def test_a_model_that_calls_for_ever_is_stopped_with_the_reason(
    script: Any, limits: LoopLimits, stopped: str, ran: int
) -> None:
    model = script.model(script.calls(("echo", {}), ("echo", {}), text="x" * 60))
    tools = script.tools(echo=script.echo)
    done = end(await collect(model, tools, limits=limits))
    assert (done.stopped, done.finish_reason, len(tools.calls)) == (stopped, "length", ran)
    assert done.message["content"].startswith("x" * 60)
    assert done.client_calls == []


async def test_a_model_that_only_calls_what_is_not_there_is_stopped(script: Any) -> None:
    model = script.model(script.calls(("nope", {})))
    done = end(await collect(model, script.tools(echo=script.echo)))
    assert (done.stopped, len(model.requests)) == ("invalid_calls", 3)


async def test_a_long_result_is_cut_and_made_encodable(script: Any) -> None:
    async def long(_: dict[str, Any]) -> ToolOutcome:
        return ToolOutcome("\0\ud800" + "x" * 50_000_000)

    model = script.model(script.calls(("long", {})), script.says("ok"))
    await collect(model, script.tools(long=long), limits=LoopLimits(result_chars=10))
    told = model.requests[1]["messages"][-1]["content"]
    assert told == "\ufffd?xxxxxxxx\n[cut: 10 of 50000002 characters]"


async def test_an_answer_cut_by_the_model_runs_no_half_call(script: Any) -> None:
    model = script.model(script.calls(("echo", {}), text="I", finish_reason="length"))
    tools = script.tools(echo=script.echo)
    done = end(await collect(model, tools))
    assert (done.finish_reason, done.stopped, tools.calls) == ("length", None, [])


async def test_the_time_limit_ends_a_silent_model(script: Any) -> None:
    model = script.model(script.says("half", "never"), hang_after=2)
    done = end(await collect(model, script.tools(), limits=LoopLimits(seconds=0.05)))
    assert (done.stopped, done.finish_reason) == ("seconds", "length")
    assert done.message["content"] == "half"
    assert model.closed == 1


async def test_the_time_limit_ends_a_slow_tool(script: Any) -> None:
    ended = anyio.Event()

    async def slow(_: dict[str, Any]) -> ToolOutcome:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    model = script.model(script.calls(("slow", {})))
    events = await collect(model, script.tools(slow=slow), limits=LoopLimits(seconds=0.05))
    assert ended.is_set()
    assert end(events).stopped == "seconds"
    assert isinstance(events[-2], ToolFinished)
    assert events[-2].text.startswith("timeout:")


async def test_a_timeout_that_is_not_the_loops_own_stays_an_error(script: Any) -> None:
    async def late(_: dict[str, Any]) -> ToolOutcome:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await collect(script.model(script.calls(("late", {}))), script.tools(late=late))
    with pytest.raises(TimeoutError):
        await collect(script.model(TimeoutError()), script.tools())


async def test_cancelling_the_task_ends_the_models_stream_and_the_tool(script: Any) -> None:
    model = script.model(script.says("a", "b"), hang_after=2)
    task = asyncio.create_task(collect(model, script.tools()))
    with anyio.fail_after(5):
        await model.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.closed == 1


async def test_closing_the_generator_ends_the_models_stream(script: Any) -> None:
    model = script.model(script.says("a", "b"))
    async with aclosing(run_loop(model, script.tools(), ASK)) as events:
        await anext(events)
    assert model.closed == 1
