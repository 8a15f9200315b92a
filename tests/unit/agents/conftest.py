"""A model that says what a test scripts, and a toolbox that records what it is asked."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from mcp_server.agents.loop import ToolOutcome
from mcp_server.llm import ChatRequest, Chunk, Completion

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


Handler = Callable[[dict[str, Any]], Awaitable[ToolOutcome]]


class Tools:
    """A toolbox of named handlers."""

    def __init__(self, **handlers: Handler) -> None:
        self.handlers = handlers
        self.calls: list[tuple[str, dict[str, Any], str | None]] = []

    async def specs(self) -> list[dict[str, Any]]:
        return [
            {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
            for name in self.handlers
        ]

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        self.calls.append((name, arguments, key))
        return await self.handlers[name](arguments)


async def echo(arguments: dict[str, Any]) -> ToolOutcome:
    return ToolOutcome(json.dumps(arguments))


class Script:
    """What the tests of this folder build their models and toolboxes from."""

    says = staticmethod(says)
    calls = staticmethod(calls)
    chunk = staticmethod(chunk)
    model = ScriptedTurns
    tools = Tools
    echo = staticmethod(echo)


@pytest.fixture
def script() -> Script:
    return Script()
