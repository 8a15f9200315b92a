"""The state of one loop: what was said and run, what the model reads next, and which limit is reached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, cast

from mcp_server.agents.answer import Answer, ToolCall
from mcp_server.agents.events import (
    CallDelta,
    Finished,
    LoopLimits,
    Stopped,
    TextDelta,
    ToolOutcome,
)
from mcp_server.agents.final import ANY_ANSWER, AnswerRules, repair
from mcp_server.agents.tool_errors import Failures, failure_text
from mcp_server.agents.turn_request import unforced, wants_json, with_tools
from mcp_server.errors import Unavailable
from mcp_server.llm import ChatRequest, Chunk, Model


class Conversation:
    """The state of one loop; an event loop must be running."""

    def __init__(
        self,
        request: ChatRequest,
        specs: list[dict[str, Any]],
        limits: LoopLimits,
        client_tools: frozenset[str],
        rules: AnswerRules = ANY_ANSWER,
        *,
        by_item: bool = False,
    ) -> None:
        own = [spec for spec in specs if spec["function"]["name"] not in client_tools]
        self._request = with_tools(request, own)
        self._server = {spec["function"]["name"] for spec in own}
        self._client_tools = client_tools
        self._by_item = by_item
        self._limits = limits
        self.deadline = asyncio.get_running_loop().time() + limits.seconds
        # Text before the last turn would spoil a JSON answer, and only the end of a turn shows
        # whether it was the last.
        self._rules = rules
        self._hold = (bool(own) or rules.check is not None) and wants_json(request)
        self._problem: str | None = None
        self._gave_back = False
        self._held: list[tuple[str, str]] = []
        self._said: dict[str, list[str]] = {}
        self._said_in: dict[str, int] = {}
        self._turn = self._written = self._calls_run = self._ran_before = self._invalid_turns = 0
        self._failures = Failures()
        self._usage: dict[str, Any] = {}
        self._transcript: list[dict[str, Any]] = []
        # What the model reads next: the request's messages and the transcript, until it is compacted.
        self.read: list[dict[str, Any]] = [*request["messages"]]
        self.answer = Answer()
        self.stopped: Stopped | None = None

    @property
    def client_calls(self) -> list[ToolCall]:
        return [call for call in self.answer.calls if call.name in self._client_tools]

    @property
    def server_calls(self) -> list[ToolCall]:
        return [call for call in self.answer.calls if call.name not in self._client_tools]

    async def ask(self, model: Model, turn: int) -> AsyncGenerator[TextDelta | CallDelta, None]:
        """Stream one turn into `answer`; `say_held` and `add_turn` then take it in."""
        self.answer, self._held, self._problem = Answer(), [], None
        async with aclosing(model.stream(self._next_request(turn))) as chunks:
            while not self.stopped and (chunk := await self._next(chunks)) is not None:
                pieces = self.answer.add(chunk)
                if self._hold:
                    self._held += pieces
                    pieces = []
                for delta in self._say(pieces, turn, self.answer.added_logprobs):
                    yield delta
                for call, added in self.answer.added_calls if self._by_item else ():
                    yield CallDelta(call.id, call.name, added, turn)
                if self._written + self.answer.size > self._limits.output_chars:
                    self.stopped = "output"
        if not self.stopped and self.answer.finish_reason is None:
            raise Unavailable("the model's answer broke off; try again")
        cost = self._rules.cost_of(self.answer.model or "", self.answer.usage)
        if cost is not None:
            self.answer.usage = {**self.answer.usage, "cost": cost}

    async def judge(self, turn: int) -> str | None:
        """Hold a final answer against the rules, and return what is wrong with it."""
        if self._rules.check is None or self.stopped or self.answer.calls:
            return None
        problem = await self._rules.check(self.answer.text)
        self._give_back(problem, turn)
        return problem

    def _give_back(self, problem: str | None, turn: int) -> None:
        self._problem = problem
        if problem is not None and (self._gave_back or turn == self._limits.turns):
            self.stopped = self.stopped or "output_invalid"
        self._gave_back = self._gave_back or problem is not None

    def say_held(self, turn: int) -> Iterable[TextDelta]:
        """Say what was held back of the turn that was asked, if it is the last one."""
        return self._say(self._held, turn) if self._is_last else ()

    def add_turn(self) -> None:
        """Add `answer` to the conversation, once it is what each attempt goes on with."""
        self._turn += 1
        self._ran_before = self._calls_run
        self._written += self.answer.size
        self._usage = _add_usage(self._usage, self.answer.usage)
        self._add(self.answer.message())
        if self._problem is not None:
            self._add(repair(self._problem))

    def _add(self, message: dict[str, Any]) -> None:
        self._transcript.append(message)
        self.read.append(message)

    def reads(self, messages: list[dict[str, Any]]) -> None:
        """Have the model read these from now on; what was said stays in the transcript."""
        self.read = messages
        self.answer.usage = {}  # of what it read before

    @property
    def is_long(self) -> bool:
        """Whether the last turn came to the limit of what the model is to read."""
        most = self._limits.context_tokens
        return most is not None and self.answer.usage.get("total_tokens", 0) >= most

    @property
    def model_id(self) -> str:
        return self._request["model"]

    def restore_turn(self, record: Mapping[str, Any], turn: int) -> None:
        """Add the turn of an earlier attempt, whose text was told then."""
        answer = self.answer = Answer.restored(record)
        self._give_back(record.get("problem"), turn)
        self.stopped = record["stopped"]
        self.add_turn()
        if not self._hold or self._is_last:
            for _ in self._say(answer.texts, turn):
                pass

    def is_over(self, turn: int) -> bool:
        """Tell whether the loop ends with this turn without running a tool."""
        if self._problem is None and not self.server_calls:
            return True
        if not self.client_calls:
            self.stopped = self.stopped or self._spent
        # Results that no turn is left to read would be effects for nothing.
        if turn == self._limits.turns and not self.client_calls:
            self.stopped = self.stopped or "turns"
        return self.stopped is not None

    @property
    def _spent(self) -> Stopped | None:
        """What is used up of what the model may cost."""
        limits, tokens = self._limits, self._usage.get("total_tokens", 0)
        if limits.tokens is not None and tokens >= limits.tokens:
            return "tokens"
        if limits.cost is not None and self._usage.get("cost", 0.0) >= limits.cost:
            return "cost"
        return None

    @property
    def admits_call(self) -> bool:
        """Whether another call may be made."""
        return self._calls_run < self._limits.tool_calls

    def problem_of(self, call: ToolCall) -> ToolOutcome | None:
        """Say why a call cannot be made, None if it can."""
        if call.name not in self._server:
            known = ", ".join(sorted(self._server | self._client_tools)) or "none"
            text = f"not_found: there is no tool {call.name[:80]!r}; there are: {known}"
            return ToolOutcome(text, is_error=True)
        try:
            call.read()
        except ValueError as error:
            text = f"invalid_input: the arguments of {call.name} are not a JSON object ({error})"
            return ToolOutcome(text, is_error=True)
        return None

    def fit(self, text: str) -> str:
        """Cut a result to what the model may see, in a form that every upstream can encode."""
        most = self._limits.result_chars
        if len(text) > most:
            text = f"{text[:most]}\n[cut: {most} of {len(text)} characters]"
        return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")

    def add_usage(self, usage: Mapping[str, Any] | None) -> None:
        """Count what models used behind a tool."""
        self._usage = _add_usage(self._usage, usage or {})

    def count_call(self, *, runs: bool) -> None:
        """Count a call; `runs` tells whether a tool is really called."""
        self._calls_run += runs

    def add_result(self, call: ToolCall, text: str, *, is_error: bool) -> None:
        """Add the result of a call, with advice if it is an error."""
        self._failures.note(self._turn, call.name, call.arguments, is_error=is_error)
        content = failure_text(text) if is_error else text
        self._add({"role": "tool", "tool_call_id": call.id, "content": content})

    def close_calls(self) -> None:
        """Notice a model that for several turns called nothing that could be called, or failed alike."""
        self._invalid_turns = 0 if self._calls_run > self._ran_before else self._invalid_turns + 1
        if self.client_calls:
            return
        if self._invalid_turns == self._limits.invalid_turns:
            self.stopped = self.stopped or "invalid_calls"
        if self._failures.most >= self._limits.same_failures:
            self.stopped = self.stopped or "repeated_calls"
        self.stopped = self.stopped or self._spent  # agents below may have used up the rest

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
        cut = self.stopped not in {None, "output_invalid"}
        reason = "length" if cut else self.answer.reason
        usage = self._usage or {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return Finished(message, reason, usage, calls, self.stopped, self._transcript)

    @property
    def _is_last(self) -> bool:
        return self.stopped is not None or (not self.server_calls and self._problem is None)

    def _next_request(self, turn: int) -> ChatRequest:
        request = self._request | {"messages": [*self.read]}
        if turn > 1 and "tool_choice" in request:
            request["tool_choice"] = unforced(request["tool_choice"])
        return request

    async def _next(self, chunks: AsyncGenerator[Chunk, None]) -> Chunk | None:
        limit = asyncio.timeout_at(self.deadline)
        try:
            async with limit:
                return await anext(chunks, None)
        except TimeoutError:
            if not limit.expired():
                raise
            self.stopped = "seconds"
            return None

    def _say(
        self,
        pieces: Iterable[tuple[str, str]],
        turn: int,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> Iterable[TextDelta]:
        for name, piece in pieces:
            said = self._said.setdefault(name, [])
            new_turn = self._said_in.get(name, turn) != turn and not self._by_item
            text = f"\n\n{piece}" if new_turn and not said[-1].endswith("\n") else piece
            self._said_in[name] = turn
            said.append(text)
            of_tokens = logprobs if self._by_item and name == "content" and logprobs else None
            yield TextDelta(text, turn, name, of_tokens)


def _add_usage(total: dict[str, Any], turn: Mapping[str, Any]) -> dict[str, Any]:
    """Add the counts of one turn, nested details included."""
    summed = dict(total)
    for name, value in turn.items():
        if isinstance(value, Mapping):
            summed[name] = _add_usage(summed.get(name) or {}, cast("Mapping[str, Any]", value))
        elif isinstance(value, int | float):
            summed[name] = (summed.get(name) or 0) + value
    return summed
