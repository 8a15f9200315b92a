"""A model that says what a test scripts, and a toolbox that records what it is asked."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcp_server.agents.loop import ToolOutcome
from mcp_server.errors import AppError
from mcp_server.llm import ChatRequest, Chunk, Completion
from mcp_server.runs.cleaning import clean

Turn = Sequence[Chunk] | Exception


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> Chunk:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def says(*texts: str, finish_reason: str = "stop", tokens: int = 1) -> list[Chunk]:
    usage = {
        "prompt_tokens": tokens,
        "completion_tokens": tokens,
        "total_tokens": 2 * tokens,
        "prompt_tokens_details": {"cached_tokens": tokens},
    }
    head = chunk({"role": "assistant", "content": ""})
    pieces = [chunk({"content": text}) for text in texts]
    return [head, *pieces, chunk({}, finish_reason), {"choices": [], "usage": usage}]


def calls(
    *named: tuple[str, Any], text: str = "", finish_reason: str = "tool_calls"
) -> list[Chunk]:
    """One turn that calls tools; arguments are a value, or text that goes out as it is."""
    chunks = says(*([text] if text else []), finish_reason=finish_reason)
    added: list[Chunk] = []
    for index, (name, arguments) in enumerate(named):
        body = arguments if isinstance(arguments, str) else json.dumps(arguments)
        head = {"index": index, "id": f"call_{name}_{index}", "type": "function"}
        added.append(chunk({"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]}))
        added.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": body}}]}))
    return [*chunks[:-2], *added, *chunks[-2:]]


class ScriptedTurns:
    """Plays one list of chunks per turn; the last repeats. `closed` counts ended streams."""

    def __init__(self, *turns: Turn, hang_after: int | None = None) -> None:
        self.turns = turns
        self.requests: list[ChatRequest] = []
        self.closed = 0
        self.hang_after = hang_after
        self.hanging = anyio.Event()

    async def complete(self, request: ChatRequest) -> Completion:
        raise NotImplementedError

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        turn = self.turns[min(len(self.requests), len(self.turns)) - 1]
        try:
            if isinstance(turn, Exception):
                raise turn
            for number, item in enumerate(turn):
                if number == self.hang_after:
                    self.hanging.set()
                    await anyio.sleep_forever()
                yield item
        finally:
            self.closed += 1


class ByConversation(ScriptedTurns):
    """Answers by the number of assistant messages, as a model does that is asked again.

    `moment` is called before each chunk.
    """

    moment: Callable[[], None] = staticmethod(lambda: None)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        said = sum(message["role"] == "assistant" for message in request["messages"])
        turn = self.turns[min(said, len(self.turns) - 1)]
        assert not isinstance(turn, Exception)
        for item in turn:
            self.moment()
            await anyio.lowlevel.checkpoint()
            yield item


Handler = Callable[[dict[str, Any]], Awaitable[ToolOutcome]]


class Tools:
    """A toolbox of named handlers."""

    def __init__(self, **handlers: Handler) -> None:
        self.handlers = handlers
        self.calls: list[tuple[str, dict[str, Any], str | None]] = []
        self.unrepeatable: set[str] = set()

    async def specs(self) -> list[dict[str, Any]]:
        return [
            {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
            for name in self.handlers
        ]

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        self.calls.append((name, arguments, key))
        return await self.handlers[name](arguments)

    def repeatable(self, name: str) -> bool:
        return name not in self.unrepeatable


async def echo(arguments: dict[str, Any]) -> ToolOutcome:
    return ToolOutcome(json.dumps(arguments))


class Interrupted(BaseException):
    """The process that made an attempt is gone."""


class Waiting(BaseException):
    """The attempt ended because a person must answer."""


class Begun(AppError):
    """What `begin` raises for a step that must not be done twice."""

    code = "unsure"


class StoredRun:
    """What the store holds of one run, over all attempts at it. Every `moment` is one to be cut at."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}
        self.begun: set[str] = set()
        self.log: list[dict[str, Any]] = []
        self.asked: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Any] = {}
        self.pending: list[dict[str, Any]] = []
        self.moments_left = 10**9
        self.begins: list[str] = []

    def moment(self) -> None:
        self.moments_left -= 1
        if self.moments_left < 0:
            raise Interrupted

    def emit(self, event: dict[str, Any], *, flush: bool = False) -> None:
        self.moment()
        self.pending.append(clean(event))
        if flush:
            self.log += self.pending
            self.pending = []
        self.moment()

    def finished(self, step: str, /) -> bool:
        return step in self.results

    def result(self, step: str, /) -> Any:
        return copy.deepcopy(self.results[step])

    def key(self, step: str, /) -> str:
        return f"run_1/{step}"

    async def begin(
        self, step: str, /, *, repeatable: bool = True, retry_unsure: bool = False
    ) -> None:
        self.moment()
        if not repeatable and step in self.begun and not retry_unsure:
            raise Begun(f"step {step} had begun")
        if not repeatable:
            self.begins.append(step)
            self.begun.add(step)
        self.moment()

    async def store(self, step: str, result: Any, /) -> Any:
        self.moment()
        assert step not in self.results
        self.results[step] = json.loads(json.dumps(clean(result)))
        self.log += self.pending
        self.pending = []
        self.moment()
        return self.result(step)

    async def ask(self, step: str, /, **request: Any) -> Any:
        if step not in self.answers:
            self.asked[step] = request
            raise Waiting
        return self.answers[step]


class Script:
    """What the tests of this folder build their models and toolboxes from."""

    says = staticmethod(says)
    calls = staticmethod(calls)
    chunk = staticmethod(chunk)
    model = ScriptedTurns
    by_conversation = ByConversation
    tools = Tools
    echo = staticmethod(echo)
    stored_run = StoredRun
    Interrupted = Interrupted
    Waiting = Waiting


@pytest.fixture
def script() -> Script:
    return Script()
