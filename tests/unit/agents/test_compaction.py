"""A loop that had its beginning summed up, interrupted anywhere and run again, reads and does what it would have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import pytest

from mcp_server.agents.events import Finished, LoopEvent, LoopLimits
from mcp_server.agents.loop import ToolOutcome, run_loop
from mcp_server.agents.steps import told_in
from mcp_server.agents.work import _stored
from mcp_server.errors import Unavailable
from mcp_server.llm import ChatRequest, Chunk, Completion, UpstreamError
from tests.unit.agents.conftest import Interrupted, StoredRun, Tools, calls, says

ASK = {"model": "m", "messages": [{"role": "user", "content": "go"}]}
TURNS = 5
MOST = 2_500


class Forgetful:
    """Calls `look` turn after turn; refuses over MOST characters. Each summary has a number of its own."""

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.read: dict[int, list[Any]] = {}
        self.summaries = 0
        self.failing: Exception | None = None

    async def complete(self, request: ChatRequest) -> Completion:
        self.run.moment()
        refuse_long(request)
        if self.failing is not None:
            raise self.failing
        self.summaries += 1
        said = max(map(counted, request["messages"]))
        message = {"role": "assistant", "content": f"summary {self.summaries}, turn={said}."}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        self.run.moment()
        refuse_long(request)
        done = max(map(counted, request["messages"]))
        self.read[done] = request["messages"]
        turn = says("done") if done == TURNS else calls(("look", {"n": done + 1}))
        for chunk in turn:
            self.run.moment()
            yield chunk


def counted(message: dict[str, Any]) -> int:
    """Find the last turn that a message tells of."""
    found = str(message.get("content") or "").split("turn=")[1:]
    return max((int(each.split(".")[0]) for each in found), default=0)


def refuse_long(request: ChatRequest) -> None:
    if sum(len(str(each.get("content") or "")) for each in request["messages"]) > MOST:
        body = {"message": "too long", "code": "context_length_exceeded"}
        raise UpstreamError(400, body, upstream="m")


async def look(arguments: dict[str, Any]) -> ToolOutcome:
    return ToolOutcome(f"turn={arguments['n']}. {'x' * 1_000}")


async def perform(cuts: list[int]) -> tuple[Any, StoredRun, Forgetful]:
    run = StoredRun()
    model = Forgetful(run)
    for moments in [*cuts, 10**9]:
        run.moments_left, run.pending = moments, []
        loop = run_loop(
            *(model, Tools(look=look), ASK, LoopLimits()),
            steps=run,
            told=told_in(run.log),
            compacts=True,
        )
        try:
            async with aclosing(loop) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        run.log += run.pending
                        return event, run, model
                    run.emit(_stored(event), flush=len(run.log + run.pending) % 2 == 0)
        except Interrupted:
            continue
    raise AssertionError("no end")


@pytest.mark.parametrize("moments", range(0, 90, 3))
def test_it_sums_up_once_wherever_it_is_cut(moments: int) -> None:
    whole, _, unbroken = asyncio.run(perform([]))
    end, run, model = asyncio.run(perform([moments, moments]))
    assert unbroken.summaries >= 2
    told = [event for event in run.log if event["type"] == "context_compacted"]
    assert [event["number"] for event in told] == list(range(1, len(told) + 1))
    stored = [run.results[f"compact/{event['number']}"] for event in told]
    assert [each["summary"] for each in stored] == [event["summary"] for event in told]
    # A cut between the model's answer and its telling costs that answer, and nothing else.
    assert unbroken.summaries <= model.summaries <= unbroken.summaries + 2
    assert plain(end) == plain(whole)
    assert [len(model.read[turn]) for turn in range(TURNS + 1)] == [
        len(unbroken.read[turn]) for turn in range(TURNS + 1)
    ]


def plain(end: Finished) -> Any:
    return {name: value for name, value in asdict(end).items() if name != "calls"}


async def test_a_model_that_cannot_sum_up_ends_the_loop_with_its_own_error() -> None:
    run = StoredRun()
    model = Forgetful(run)
    model.failing = Unavailable("gone")
    loop = run_loop(model, Tools(look=look), ASK, LoopLimits(), steps=run, compacts=True)
    with pytest.raises(Unavailable, match="gone"):
        await to_its_end(loop)
    assert "call/1" in run.results


async def test_without_leave_to_compact_the_refusal_ends_the_loop() -> None:
    run = StoredRun()
    loop = run_loop(Forgetful(run), Tools(look=look), ASK, LoopLimits(), steps=run)
    with pytest.raises(UpstreamError, match="too long"):
        await to_its_end(loop)


async def to_its_end(loop: AsyncGenerator[LoopEvent, None]) -> None:
    async with aclosing(loop) as events:
        async for _ in events:
            pass
