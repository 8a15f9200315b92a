"""What a loop does when its conversation grows too long for the model: it has the older part summed up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from mcp_server.agents.conversation import Conversation
from mcp_server.agents.events import ContextCompacted
from mcp_server.agents.final import CostOf
from mcp_server.agents.steps import Steps, Told
from mcp_server.errors import AppError
from mcp_server.llm import ChatRequest, Model
from mcp_server.llm.plan import is_overflow

Message: TypeAlias = dict[str, Any]

# What is left of a result that stays when nothing older can be summed up, in characters.
RESULT_CHARS = 2_000
# Of a message, and of all of them, in characters: how much the model is shown to sum up. One that is
# still too long for it is asked with the next.
_SHOWN = ((20_000, 400_000), (4_000, 60_000), (1_000, 12_000), (400, 4_000))
_SYSTEM = frozenset({"system", "developer"})
_ASK = (
    "You sum up the beginning of a conversation for the assistant that goes on with it and will not "
    "see it. Keep every fact, name, number, identifier and decision that may still matter, what was "
    "done and what came of it, and what is left to do. Answer with the summary alone."
)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A conversation: system messages, what can be summed up, the request, and the last turn's calls."""

    system: list[Message]
    older: list[Message]
    request: Message | None
    last: list[Message]


@dataclass(slots=True)
class Compactor:
    """Shortens what the model reads; compaction n of the loop is the step `compact/n`.

    System messages, the last thing that the user said before the loop, and the last turn's calls with
    their results stay; all else becomes a summary before that request, written by the same model.
    Where there is nothing else, long results are cut. A call never stands without its result.
    """

    model: Model
    talk: Conversation
    steps: Steps | None
    cost_of: CostOf
    told: Told
    _request: Message | None = field(init=False)
    _shown: Message | None = field(default=None, init=False)
    _summary: str | None = field(default=None, init=False)
    _number: int = field(default=0, init=False)
    _cut_in: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        said = [message for message in self.talk.read if message.get("role") == "user"]
        self._request = self._shown = said[-1] if said else None

    def restore(self, turn: int) -> None:
        """Do again what earlier attempts did before they asked for a turn."""
        while self.steps is not None and self.steps.finished(f"compact/{self._number + 1}"):
            kept: Mapping[str, Any] = self.steps.result(f"compact/{self._number + 1}")
            if kept["turn"] != turn:
                return
            self.talk.add_usage(kept["usage"])
            self._apply(kept["summary"], turn)

    async def before(self, turn: int) -> AsyncGenerator[ContextCompacted, None]:
        """Compact if the last turn came to the limit of what the model is to read."""
        if self.talk.is_long and self._parts().older:
            async for event in self._compact(turn):
                yield event

    async def after(self, turn: int, overflow: AppError) -> AsyncGenerator[ContextCompacted, None]:
        """Compact after the model refused what it was to read.

        Raises:
            AppError: `overflow` itself, when nothing is left that could be shortened.
        """
        if not is_overflow(overflow) or self._cut_in == turn:
            raise overflow
        if not self._parts().older and not any(map(_is_long, self._parts().last)):
            raise overflow
        async for event in self._compact(turn):
            yield event

    async def _compact(self, turn: int) -> AsyncGenerator[ContextCompacted, None]:
        older, number = self._parts().older, self._number + 1
        known = self.told.compactions.get(number)
        if known is not None:  # it was told, and the attempt ended before it was stored
            summary, usage = known["summary"], known["usage"]
        else:
            summary, usage = await self._summed_up(older) if older else (None, dict[str, Any]())
            if self.talk.stopped:
                return
            yield ContextCompacted(turn, number, len(older), summary, usage)
        if self.steps is not None:
            kept = {"turn": turn, "summary": summary, "usage": usage}
            stored = await self.steps.store(f"compact/{number}", kept)
            summary = stored["summary"]  # so that each attempt goes on with the same
        self.talk.add_usage(usage)
        self._apply(summary, turn)

    def _apply(self, summary: str | None, turn: int) -> None:
        self._number += 1
        parts = self._parts()
        last = parts.last
        if summary is None:
            last, self._cut_in = [_cut(message) for message in last], turn
        else:
            self._summary = summary
            self._shown = _with_summary(summary, self._request)
        request = [] if self._shown is None else [self._shown]
        self.talk.reads([*parts.system, *request, *last])

    def _parts(self) -> _Parts:
        messages = self.talk.read
        begin = next((n for n, each in enumerate(messages) if each["role"] not in _SYSTEM), 0)
        end = len(messages)
        while end > begin and messages[end - 1]["role"] in {"tool", "user"}:
            if messages[end - 1] is self._shown:
                break
            end -= 1
        if end > begin and messages[end - 1]["role"] == "assistant" and end < len(messages):
            end -= 1
        older = [each for each in messages[begin:end] if each is not self._shown]
        return _Parts(messages[:begin], older, self._shown, messages[end:])

    async def _summed_up(self, older: Sequence[Message]) -> tuple[str, dict[str, Any]]:
        failure: AppError | None = None
        for each, most in _SHOWN:
            lines = [_line(message, each) for message in older]
            earlier = [] if self._summary is None else [_clip(self._summary, each)]
            text = _clip("\n\n".join([*earlier, *lines]), most)
            try:
                return await self._ask(text)
            except AppError as error:
                if not is_overflow(error):
                    raise
                failure = error
        assert failure is not None  # noqa: S101  for the type checker: there is a first size
        raise failure

    async def _ask(self, text: str) -> tuple[str, dict[str, Any]]:
        said = [{"role": "system", "content": _ASK}, {"role": "user", "content": text}]
        request = cast("ChatRequest", {"model": self.talk.model_id, "messages": said})
        limit = asyncio.timeout_at(self.talk.deadline)
        try:
            async with limit:
                answer = await self.model.complete(request)
        except TimeoutError:
            if not limit.expired():
                raise
            self.talk.stopped = "seconds"
            return "", {}
        message: Mapping[str, Any] = answer["choices"][0]["message"]
        usage: dict[str, Any] = dict(answer.get("usage") or {})
        cost = self.cost_of(answer.get("model") or "", usage)
        return message.get("content") or "", usage if cost is None else usage | {"cost": cost}


def _with_summary(summary: str, request: Message | None) -> Message:
    """Give one message of the user: some models take no two in a row."""
    told = f"What was said and done before, summed up:\n\n{summary}"
    if request is None:
        return {"role": "user", "content": told}
    content: object = request.get("content")
    if isinstance(content, str):
        return {**request, "content": f"{told}\n\nWhat is asked:\n\n{content}"}
    given = cast("list[Any]", content or [])
    return {**request, "content": [{"type": "text", "text": f"{told}\n\nWhat is asked:"}, *given]}


def _line(message: Message, most: int) -> str:
    """Write a message down, in at most about `most` characters."""
    content: object = message.get("content")
    if isinstance(content, list):
        parts = cast("list[Mapping[str, Any]]", content)
        content = " ".join(part.get("text") or f"[{part.get('type')}]" for part in parts)
    text = [_clip(str(content), most)] if content else []
    calls = [
        f"(calls {_clip(json.dumps(call.get('function') or call, ensure_ascii=False), most)})"
        for call in message.get("tool_calls") or ()
    ]
    return f"{message['role']}: {' '.join([*text, *calls])}"


def _is_long(message: Message) -> bool:
    content: object = message.get("content")
    return message["role"] == "tool" and isinstance(content, str) and len(content) > RESULT_CHARS


def _cut(message: Message) -> Message:
    if not _is_long(message):
        return message
    return {**message, "content": _clip(message["content"], RESULT_CHARS)}


def _clip(text: str, most: int) -> str:
    """Give the head and the tail of a text that is longer than `most` characters."""
    if len(text) <= most:
        return text
    head, tail = most * 2 // 3, most // 3
    return f"{text[:head]}\n[{len(text) - head - tail} characters left out]\n{text[-tail:]}"
