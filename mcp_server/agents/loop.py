"""The loop: ask the model, run the tools it calls, ask again, until it answers or a limit ends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from mcp_server.agents.answer import Answer
from mcp_server.agents.calls import Caller
from mcp_server.agents.compaction import Compactor
from mcp_server.agents.conversation import Conversation
from mcp_server.agents.events import (
    CallDelta,
    ContextCompacted,
    Finished,
    LoopEvent,
    LoopLimits,
    Stopped,
    TextDelta,
    Toolbox,
    ToolFinished,
    ToolOutcome,
    ToolStarted,
    TurnFinished,
    TurnIncomplete,
)
from mcp_server.agents.final import ANY_ANSWER, AnswerRules
from mcp_server.agents.steps import NO_RULES, NOTHING_TOLD, CallRules, Steps, Told
from mcp_server.errors import AppError
from mcp_server.llm import ChatRequest, Model

__all__ = [
    "CallDelta",
    "ContextCompacted",
    "Finished",
    "LoopEvent",
    "LoopLimits",
    "Stopped",
    "TextDelta",
    "ToolFinished",
    "ToolOutcome",
    "ToolStarted",
    "Toolbox",
    "TurnFinished",
    "TurnIncomplete",
    "run_loop",
]

DEFAULT_LIMITS = LoopLimits()


async def run_loop(
    model: Model,
    toolbox: Toolbox,
    request: ChatRequest,
    limits: LoopLimits = DEFAULT_LIMITS,
    client_tools: frozenset[str] = frozenset(),
    *,
    steps: Steps | None = None,
    rules: CallRules = NO_RULES,
    told: Told = NOTHING_TOLD,
    answers: AnswerRules = ANY_ANSWER,
    by_item: bool = False,
    compacts: bool = False,
) -> AsyncGenerator[LoopEvent, None]:
    """Answer a chat request with the toolbox's tools, as a stream of events that ends with Finished.

    `request` is an OpenAI chat body whose `model` is the id that `model` knows; it is not changed,
    and its further fields go to each turn. `client_tools` are those of its `tools` that the client
    runs: a call to one ends the loop, after the server's own calls of that turn, and one hides a
    server's tool of its name. A forced `tool_choice` holds for the first turn only, or no turn could
    answer. Every turn's text is part of the one answer, apart by a blank line; if `response_format`
    asks for JSON, only the last turn's is.

    With `steps`, the loop may be interrupted anywhere and run again: what finished is neither done
    nor told again but counts as before, so that it ends as if nothing had been. An answer of the
    model is stored before any of its calls is made, so that each attempt makes the same calls. `told`
    is what earlier attempts told; a turn that one of them left open begins anew, after
    TurnIncomplete. Without `steps`, `rules` and `told` mean nothing. `limits.seconds` counts for
    this attempt alone.

    A final answer that does not pass the check of `answers` is asked for once more.

    `by_item` is for answers that are made of items: each turn's text is told by itself, without the
    blank line, and the pieces of calls are told as the model writes them.

    With `compacts`, a conversation that is too long for the model, or over `limits.context_tokens`, is
    shortened and goes on, see `compaction`.

    Close the generator or cancel its task to stop: the model's stream and a running tool end too.

    Raises:
        AppError: the model failed, the caller's rights are gone, or what came of an interrupted call
            is unknown and the rules say that it must not be made again.
    """
    specs = await toolbox.specs()
    talk = Conversation(request, specs, limits, client_tools, answers, by_item=by_item)
    at_once = 1 if request.get("parallel_tool_calls") is False else limits.at_once
    caller = Caller(toolbox, talk, steps, rules, told, at_once)
    compactor = Compactor(model, talk, steps, answers.cost_of, told) if compacts else None
    for turn in range(1, limits.turns + 1):
        if compactor is not None:
            compactor.restore(turn)
        async with aclosing(_take_turn(talk, model, turn, steps, told, compactor)) as events:
            async for event in events:
                yield event
        if talk.stopped or talk.is_over(turn):
            break
        async with aclosing(caller.run_calls(turn)) as events:
            async for event in events:
                yield event
        if talk.stopped or talk.client_calls:
            break
    yield talk.finished()


async def _take_turn(
    talk: Conversation,
    model: Model,
    turn: int,
    steps: Steps | None,
    told: Told,
    compactor: Compactor | None,
) -> AsyncGenerator[LoopEvent, None]:
    """Ask the model, or take the answer that an earlier attempt stored."""
    step = f"turn/{turn}"
    if steps is not None and steps.finished(step):
        talk.restore_turn(steps.result(step), turn)
        return
    if turn in told.open_turns:
        yield TurnIncomplete(turn)
    async with aclosing(_ask(talk, model, turn, compactor)) as deltas:
        async for delta in deltas:
            yield delta
    problem = await talk.judge(turn)
    for delta in talk.say_held(turn):
        yield delta
    answer = talk.answer
    if talk.stopped in {None, "output_invalid"}:
        yield TurnFinished(turn, answer.reason, answer.usage, answer.model)
    if steps is not None:
        ended = {"stopped": talk.stopped, "problem": problem}
        kept = await steps.store(step, answer.record() | ended)
        talk.answer = Answer.restored(kept)  # so that each attempt goes on with the same
    talk.add_turn()


async def _ask(
    talk: Conversation, model: Model, turn: int, compactor: Compactor | None
) -> AsyncGenerator[LoopEvent, None]:
    """Ask the model, with a shorter conversation where the whole one is too long for it."""
    if compactor is None:
        async with aclosing(talk.ask(model, turn)) as deltas:
            async for delta in deltas:
                yield delta
        return
    async with aclosing(compactor.before(turn)) as events:
        async for event in events:
            yield event
    while not talk.stopped:
        try:
            async with aclosing(talk.ask(model, turn)) as deltas:
                async for delta in deltas:
                    yield delta
        except AppError as error:
            async with aclosing(compactor.after(turn, error)) as events:
                async for event in events:
                    yield event
        else:
            return
