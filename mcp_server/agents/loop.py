"""The loop: ask the model, run the tools it calls, ask again, until it answers or a limit ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, cast

from mcp_server.agents.answer import Answer, ToolCall
from mcp_server.agents.events import (
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
)
from mcp_server.errors import AppError, Unauthenticated, Unavailable
from mcp_server.llm import ChatRequest, Chunk, Model

__all__ = [
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
    steps: str | None = None,
) -> AsyncGenerator[LoopEvent, None]:
    """Answer a chat request with the toolbox's tools, as a stream of events that ends with Finished.

    `request` is an OpenAI chat body whose `model` is the id that `model` knows; it is not changed,
    and its further fields go to each turn. `client_tools` are those of its `tools` that the client
    runs: a call to one ends the loop, after the server's own calls of that turn, and one hides a
    server's tool of its name. A forced `tool_choice` holds for the first turn only, or no turn could
    answer. Every turn's text is part of the one answer, apart by a blank line; if `response_format`
    asks for JSON, only the last turn's is. With `steps`, call n has the idempotency key `STEPS/n`.

    Close the generator or cancel its task to stop: the model's stream and a running tool end too.

    Raises:
        AppError: the model failed, or the caller's rights are gone.
    """
    talk = _Conversation(request, await toolbox.specs(), limits, client_tools, steps)
    for turn in range(1, limits.turns + 1):
        async with aclosing(talk.ask(model, turn)) as deltas:
            async for delta in deltas:
                yield delta
        if talk.stopped:
            break
        yield TurnFinished(turn, talk.answer.reason, talk.answer.usage)
        if talk.is_over(turn):
            break
        async with aclosing(talk.run_calls(toolbox, turn)) as events:
            async for event in events:
                yield event
        if talk.stopped or talk.client_calls:
            break
    yield talk.finished()


class _Conversation:
    """The state of one loop."""

    def __init__(
        self,
        request: ChatRequest,
        specs: list[dict[str, Any]],
        limits: LoopLimits,
        client_tools: frozenset[str],
        steps: str | None,
    ) -> None:
        own = [spec for spec in specs if spec["function"]["name"] not in client_tools]
        self._request = _with_tools(request, own)
        self._server = {spec["function"]["name"] for spec in own}
        self._client_tools = client_tools
        self._limits = limits
        self._steps = steps
        self._deadline = asyncio.get_running_loop().time() + limits.seconds
        # Text before the last turn would spoil a JSON answer, and only the end of a turn shows
        # whether it was the last.
        self._hold = bool(own) and _wants_json(request)
        self._said: dict[str, list[str]] = {}
        self._said_in: dict[str, int] = {}
        self._written = self._calls_run = self._invalid_turns = 0
        self._usage: dict[str, Any] = {}
        self._transcript: list[dict[str, Any]] = []
        self.answer = Answer()
        self.stopped: Stopped | None = None

    @property
    def client_calls(self) -> list[ToolCall]:
        return [call for call in self.answer.calls if call.name in self._client_tools]

    async def ask(self, model: Model, turn: int) -> AsyncGenerator[TextDelta, None]:
        """Stream one turn into `answer`."""
        self.answer = Answer()
        held: list[tuple[str, str]] = []
        async with aclosing(model.stream(self._next_request(turn))) as chunks:
            while not self.stopped and (chunk := await self._next(chunks)) is not None:
                pieces = self.answer.add(chunk)
                if self._hold:
                    held += pieces
                    pieces = []
                for delta in self._say(pieces, turn):
                    yield delta
                if self._written + self.answer.size > self._limits.output_chars:
                    self.stopped = "output"
        if not self.stopped and self.answer.finish_reason is None:
            raise Unavailable("the model's answer broke off; try again")
        self._written += self.answer.size
        self._usage = _add_usage(self._usage, self.answer.usage)
        self._transcript.append(self.answer.message())
        if self.stopped or len(self.client_calls) == len(self.answer.calls):
            for delta in self._say(held, turn):
                yield delta

    def is_over(self, turn: int) -> bool:
        """Tell whether the loop ends with this turn without running a tool."""
        if len(self.client_calls) == len(self.answer.calls):
            return True
        # Results that no turn is left to read would be effects for nothing.
        if turn == self._limits.turns and not self.client_calls:
            self.stopped = "turns"
        return self.stopped is not None

    async def run_calls(
        self, toolbox: Toolbox, turn: int
    ) -> AsyncGenerator[ToolStarted | ToolFinished, None]:
        """Run the server's calls of this turn, in order, and add their results."""
        ran_before = self._calls_run
        for call in self.answer.calls:
            if call.name in self._client_tools or self.stopped:
                continue
            if self._calls_run == self._limits.tool_calls:
                self.stopped = "tool_calls"
                return
            yield ToolStarted(call.id, call.name, call.arguments, turn)
            outcome = await self._run(toolbox, call)
            text = _fit(outcome.text, self._limits.result_chars)
            self._transcript.append({"role": "tool", "tool_call_id": call.id, "content": text})
            yield ToolFinished(call.id, call.name, text, outcome.is_error, turn)
        self._invalid_turns = 0 if self._calls_run > ran_before else self._invalid_turns + 1
        if self._invalid_turns == self._limits.invalid_turns and not self.client_calls:
            self.stopped = self.stopped or "invalid_calls"

    def finished(self) -> Finished:
        calls = [] if self.stopped else [call.wire() for call in self.client_calls]
        texts = {name: "".join(pieces) for name, pieces in self._said.items()}
        message: dict[str, Any] = {
            "role": "assistant",
            "content": texts.pop("content", None if calls else ""),
            "refusal": texts.pop("refusal", None),
            **texts,
        }
        if calls:
            message["tool_calls"] = calls
        reason = "length" if self.stopped else self.answer.reason
        usage = self._usage or {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return Finished(message, reason, usage, calls, self.stopped, self._transcript)

    def _next_request(self, turn: int) -> ChatRequest:
        messages = [*self._request["messages"], *self._transcript]
        request = self._request | {"messages": messages}
        if turn > 1 and "tool_choice" in request:
            request["tool_choice"] = _unforced(request["tool_choice"])
        return request

    async def _next(self, chunks: AsyncGenerator[Chunk, None]) -> Chunk | None:
        limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                return await anext(chunks, None)
        except TimeoutError:
            if not limit.expired():
                raise
            self.stopped = "seconds"
            return None

    async def _run(self, toolbox: Toolbox, call: ToolCall) -> ToolOutcome:
        if call.name not in self._server:
            known = ", ".join(sorted(self._server | self._client_tools)) or "none"
            return _failure(f"not_found: there is no tool {call.name[:80]!r}; there are: {known}")
        try:
            arguments = call.read()
        except ValueError as error:
            return _failure(
                f"invalid_input: the arguments of {call.name} are not a JSON object ({error})"
            )
        self._calls_run += 1
        key = f"{self._steps}/{self._calls_run}" if self._steps else None
        limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                return await toolbox.call(call.name, arguments, key=key)
        except TimeoutError:
            if not limit.expired():
                raise
            self.stopped = "seconds"
            return _failure("timeout: the time limit passed while the tool ran")
        except Unauthenticated:
            raise
        except AppError as error:
            return _failure(str(error))

    def _say(self, pieces: Iterable[tuple[str, str]], turn: int) -> Iterable[TextDelta]:
        for name, piece in pieces:
            said = self._said.setdefault(name, [])
            new_turn = self._said_in.get(name, turn) != turn
            text = f"\n\n{piece}" if new_turn and not said[-1].endswith("\n") else piece
            self._said_in[name] = turn
            said.append(text)
            yield TextDelta(text, turn, name)


def _failure(text: str) -> ToolOutcome:
    return ToolOutcome(text, is_error=True)


def _with_tools(request: ChatRequest, own: list[dict[str, Any]]) -> ChatRequest:
    options: dict[str, Any] = request.get("stream_options") or {}
    full = request | {"stream": True, "stream_options": options | {"include_usage": True}}
    tools: list[Any] = [*(request.get("tools") or ()), *own]
    return full | {"tools": tools} if tools else full


def _wants_json(request: ChatRequest) -> bool:
    wanted: object = request.get("response_format")
    if not isinstance(wanted, Mapping):
        return False
    return cast("Mapping[str, Any]", wanted).get("type") in {"json_object", "json_schema"}


def _unforced(choice: object) -> object:
    """Give the choice of the turns after the first: what was forced is now free."""
    if choice == "none":
        return choice
    if isinstance(choice, Mapping):
        named = cast("Mapping[str, Any]", choice)
        if named.get("type") == "allowed_tools":  # the mode stands inside or beside it
            inner: object = named.get("allowed_tools")
            if isinstance(inner, Mapping):
                return {**named, "allowed_tools": {**cast("dict[str, Any]", inner), "mode": "auto"}}
            return {**named, "mode": "auto"}
    return "auto"


def _add_usage(total: dict[str, Any], turn: Mapping[str, Any]) -> dict[str, Any]:
    """Add the counts of one turn, nested details included."""
    summed = dict(total)
    for name, value in turn.items():
        if isinstance(value, Mapping):
            summed[name] = _add_usage(summed.get(name) or {}, cast("Mapping[str, Any]", value))
        elif isinstance(value, int | float):
            summed[name] = (summed.get(name) or 0) + value
    return summed


def _fit(text: str, most: int) -> str:
    """Cut a result to what the model may see, and give it a form that every upstream can encode."""
    cut = text if len(text) <= most else f"{text[:most]}\n[cut: {most} of {len(text)} characters]"
    return cut.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
