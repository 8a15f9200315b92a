"""What a run of an agent does: the loop under the agent's definition, told as events that can be stored."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias, cast

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.agents.events import (
    CallDelta,
    ContextCompacted,
    Finished,
    LoopEvent,
    TextDelta,
    Toolbox,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnIncomplete,
)
from mcp_server.agents.final import ANY_ANSWER, AnswerRules
from mcp_server.agents.loop import run_loop
from mcp_server.agents.models import Fallbacks, ModelFor
from mcp_server.agents.steps import NOTHING_TOLD, CallRules, Steps, Told
from mcp_server.errors import InvalidInput
from mcp_server.function_names import function_name
from mcp_server.llm.strict_schema import response_format

Message: TypeAlias = dict[str, Any]

MOST_MESSAGES = 1000
MOST_CHARS = 2_000_000
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


async def perform(
    definition: AgentDefinition,
    conversation: Sequence[Message],
    options: Mapping[str, Any],
    *,
    model_for: ModelFor,
    toolbox: Toolbox,
    steps: Steps,
    told: Told = NOTHING_TOLD,
    answers: AnswerRules = ANY_ANSWER,
) -> AsyncGenerator[dict[str, Any], None]:
    """Run an agent on a conversation and yield its events; the last one is of type `message`.

    `options` are further fields of a chat request, for example `temperature`; what the definition
    says, they cannot change. `told` is what earlier attempts at this run told; see `run_loop`.

    Raises:
        AppError: the model does not exist or failed, the caller's rights are gone, or a call that
            must not be made twice was interrupted.
    """
    model = Fallbacks((definition.model, *definition.fallbacks), model_for)
    system = {"role": "system", "content": definition.instructions}
    messages = [system, *conversation] if definition.instructions else [*conversation]
    request = {**options, "model": definition.model, "messages": messages}
    if definition.output_schema is not None:
        request["response_format"] = response_format(definition.output_schema)
    for name in ("tools", "stream_options"):
        request.pop(name, None)
    limits = definition.limits.of_loop()
    if not definition.parallel:
        limits = replace(limits, at_once=1)
    rules = CallRules(frozenset(map(function_name, definition.approve)), definition.unsure)
    loop = run_loop(
        *(model, toolbox, request, limits),
        steps=steps,
        rules=rules,
        told=told,
        answers=answers,
        compacts=True,
    )
    async with aclosing(loop) as events:
        async for event in events:
            yield _stored(event)


def read_conversation(given: object) -> list[Message]:
    """Return the messages of an agent's input: a text, or a list of chat messages.

    Raises:
        InvalidInput: it is neither, or too long.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise InvalidInput("input: give a text or a list of chat messages", param="input")
    messages = cast("list[object]", given)
    if len(messages) > MOST_MESSAGES or len(repr(messages)) > MOST_CHARS:
        raise InvalidInput(
            f"input: at most {MOST_MESSAGES} messages and {MOST_CHARS} characters are allowed; "
            "store the text as an object and give its key",
            param="input",
        )
    return [_message(entry, number) for number, entry in enumerate(messages)]


def _message(entry: object, number: int) -> Message:
    message = cast("Message", entry) if isinstance(entry, dict) else {}
    if message.get("role") not in _ROLES or not ("content" in message or message.get("tool_calls")):
        raise InvalidInput(
            f"input[{number}]: not a chat message; give an object with a role of "
            f"{', '.join(sorted(_ROLES))} and a content",
            param="input",
        )
    return message


def _stored(event: LoopEvent) -> dict[str, Any]:
    match event:
        case TextDelta(text=text, turn=turn, field=field):
            return {"type": "text", "turn": turn, "field": field, "text": text}
        case CallDelta(call_id=call, name=name, arguments=arguments, turn=turn):
            piece = {"call": call, "name": name, "arguments": arguments}
            return {"type": "call", "turn": turn, **piece}
        case ToolStarted(call_id=call, name=name, arguments=arguments, turn=turn, number=number):
            started = {"number": number, "call": call, "name": name, "arguments": arguments}
            return {"type": "tool_started", "turn": turn, **started}
        case ToolFinished(call_id=call, name=name, text=text, turn=turn, number=number):
            finished = {"number": number, "call": call, "name": name, "text": text}
            return {"type": "tool_finished", "turn": turn, **finished, "is_error": event.is_error}
        case TurnFinished(turn=turn, finish_reason=reason, usage=usage, model=model):
            told = {"finish_reason": reason, "usage": usage, "model": model}
            return {"type": "turn_finished", "turn": turn, **told}
        case ContextCompacted(turn=turn, number=number, messages=messages, usage=usage):
            told = {"number": number, "messages": messages, "summary": event.summary}
            return {"type": "context_compacted", "turn": turn, **told, "usage": usage}
        case TurnIncomplete(turn=turn):
            return {"type": "turn_incomplete", "turn": turn}
        case Finished(message=message, finish_reason=reason, usage=usage, stopped=stopped):
            told = {"finish_reason": reason, "usage": usage, "stopped": stopped}
            return {"type": "message", "message": message, **told}
