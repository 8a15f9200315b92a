"""Answers that must fit a schema, that cost something, and that another model gives when one does not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from mcp_server.agents.events import Finished, LoopEvent, LoopLimits, TextDelta, TurnFinished
from mcp_server.agents.final import AnswerRules
from mcp_server.agents.loop import run_loop
from mcp_server.agents.models import Fallbacks
from mcp_server.agents.steps import told_in
from mcp_server.agents.work import _stored
from mcp_server.errors import AppError, InvalidInput, NotFound, Unavailable
from mcp_server.llm import Model, UpstreamError
from mcp_server.llm.price import Price
from mcp_server.llm.strict_schema import response_format
from tests.unit.agents.conftest import Interrupted, Script, StoredRun

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
JSON = ASK | {"response_format": {"type": "json_schema", "json_schema": {}}}


async def check(text: str) -> str | None:
    return None if text == '{"a": 1}' else "answer: 'a' is a required property"


FITS = AnswerRules(check)


async def collect(model: Any, tools: Any, request: Any = JSON, **more: Any) -> list[LoopEvent]:
    async with aclosing(run_loop(model, tools, request, **more)) as events:
        return [event async for event in events]


def end(events: list[LoopEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


async def test_an_answer_that_does_not_fit_is_given_back_once_with_its_problem(
    script: Script,
) -> None:
    model = script.model(script.says("{}"), script.says('{"a"', ": 1}"))
    events = await collect(model, script.tools(), answers=FITS)
    assert model.requests[1]["messages"][1:] == [
        {"role": "assistant", "content": "{}"},
        {
            "role": "user",
            "content": "The answer does not fit: answer: 'a' is a required property. "
            "Answer again, with nothing but JSON that fits.",
        },
    ]
    done = end(events)
    assert (done.message["content"], done.stopped, done.finish_reason) == ('{"a": 1}', None, "stop")
    assert [event.text for event in events if isinstance(event, TextDelta)] == ['{"a"', ": 1}"]


@pytest.mark.parametrize(("turns", "asked"), [(16, 2), (1, 1)])
async def test_an_answer_that_never_fits_ends_the_loop_and_is_kept(
    script: Script, turns: int, asked: int
) -> None:
    model = script.model(script.says("{}"))
    limits = LoopLimits(turns=turns)
    done = end(await collect(model, script.tools(), answers=FITS, limits=limits))
    assert (done.stopped, done.message["content"]) == ("output_invalid", "{}")
    assert len(model.requests) == asked


@pytest.mark.parametrize("good", [True, False])
async def test_a_repair_that_is_interrupted_anywhere_ends_the_same(
    script: Script, good: bool
) -> None:
    turns = [
        *(script.calls(("echo", {}), text="Hm"), script.says("{}")),
        script.says('{"a": 1}' if good else "[]"),
    ]

    async def attempt(run: StoredRun, moments: int) -> Finished:
        run.moments_left, run.pending = moments, []
        model = script.by_conversation(*turns)
        model.moment = run.moment
        tools = script.tools(echo=script.echo)
        told = told_in(run.log)
        async with aclosing(
            run_loop(model, tools, JSON, steps=run, told=told, answers=FITS)
        ) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event
                run.emit(_stored(event))
        raise AssertionError

    whole = StoredRun()
    expected = await attempt(whole, 10**9)
    assert expected.stopped == (None if good else "output_invalid")
    for cut in range(10**9 - whole.moments_left):
        run = StoredRun()
        with pytest.raises(Interrupted):
            await attempt(run, cut)
        assert await attempt(run, 10**9) == expected


@pytest.mark.parametrize(
    ("limits", "stopped", "asked"),
    [
        (LoopLimits(tokens=5), "tokens", 3),
        (LoopLimits(cost=0.5), "cost", 2),
        (LoopLimits(tokens=2), "tokens", 1),
    ],
)
async def test_a_used_up_budget_ends_the_loop_before_further_effects(
    script: Script, limits: LoopLimits, stopped: str, asked: int
) -> None:
    model = script.model(script.calls(("echo", {}), text="Hm."))
    tools = script.tools(echo=script.echo)
    rules = AnswerRules(cost_of=lambda _, usage: usage["total_tokens"] / 8)
    done = end(await collect(model, tools, ASK, limits=limits, answers=rules))
    assert (done.stopped, len(model.requests), len(tools.calls)) == (stopped, asked, asked - 1)
    assert done.usage["cost"] == asked / 4
    assert done.message["content"].startswith("Hm.")


async def test_an_answer_that_uses_the_budget_up_is_an_answer(script: Script) -> None:
    limits = LoopLimits(tokens=1)
    done = end(await collect(script.model(script.says("ok")), script.tools(), ASK, limits=limits))
    assert (done.stopped, done.message["content"]) == (None, "ok")


def test_a_price_counts_what_was_read_before_by_itself() -> None:
    usage = {
        "prompt_tokens": 1_000_000,
        "completion_tokens": 500_000,
        "prompt_tokens_details": {"cached_tokens": 400_000},
    }
    assert Price(2.0, 10.0).of(usage) == pytest.approx(7.0)
    assert Price(2.0, 10.0, 0.5).of(usage) == pytest.approx(6.4)
    assert Price(2.0, 10.0).of({}) == 0


TOO_LONG = UpstreamError(400, {"code": "context_length_exceeded"}, upstream="u")
BAD = UpstreamError(400, {"message": "no such field"}, upstream="u")


def chain(models: Mapping[str, Model | AppError]) -> Fallbacks:
    async def model_for(name: str) -> tuple[Model, str]:
        found = models[name]
        if isinstance(found, AppError):
            raise found
        return found, f"{name}-upstream"

    return Fallbacks(list(models), model_for)


@pytest.mark.parametrize("failure", [Unavailable("down"), TOO_LONG, NotFound("gone")])
async def test_a_model_that_fails_before_it_says_anything_leaves_the_turn_to_the_next(
    script: Script, failure: AppError
) -> None:
    second = script.model(script.says("hello"))
    for first in (failure, script.model(failure), _broken_after_its_head(script, failure)):
        events = await collect(chain({"a": first, "b": second}), script.tools(), ASK)
        (turn,) = [event for event in events if isinstance(event, TurnFinished)]
        assert (turn.model, turn.turn) == ("b", 1)
        assert end(events).message["content"] == "hello"
    assert {request["model"] for request in second.requests} == {"b-upstream"}


def _broken_after_its_head(script: Script, failure: AppError) -> Any:
    class Breaks(script.model):
        async def stream(self, request: Any) -> AsyncGenerator[Any, None]:
            yield script.chunk({"role": "assistant", "content": ""})
            raise failure

    return Breaks()


async def test_a_request_that_no_model_would_take_is_not_passed_on(script: Script) -> None:
    second = script.model(script.says("hello"))
    with pytest.raises(UpstreamError, match="no such field"):
        await collect(chain({"a": script.model(BAD), "b": second}), script.tools(), ASK)
    assert second.requests == []


async def test_a_model_that_fails_in_the_middle_is_not_followed_by_another(script: Script) -> None:
    class Breaks(script.model):
        async def stream(self, request: Any) -> AsyncGenerator[Any, None]:
            yield script.chunk({"content": "half"})
            raise Unavailable("cut")

    second = script.model(script.says("hello"))
    with pytest.raises(Unavailable, match="cut"):
        await collect(chain({"a": Breaks(), "b": second}), script.tools(), ASK)
    assert second.requests == []


async def test_that_the_conversation_is_too_long_counts_before_other_failures(
    script: Script,
) -> None:
    models = {"a": script.model(TOO_LONG), "b": Unavailable("down")}
    with pytest.raises(UpstreamError) as caught:
        await collect(chain(models), script.tools(), ASK)
    assert caught.value is TOO_LONG
    with pytest.raises(InvalidInput):
        await collect(chain({"a": InvalidInput("never")}), script.tools(), ASK)


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {}, "additionalProperties": False}, True),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "object", "properties": {"b": {}}}},
                "required": ["a"],
                "additionalProperties": False,
            },
            False,
        ),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, False),
        ({"type": "array"}, False),
    ],
)
def test_a_schema_is_strict_only_where_openais_rules_hold(schema: Any, strict: bool) -> None:
    assert response_format(schema)["json_schema"] == {
        "name": "output",
        "schema": schema,
        "strict": strict,
    }
