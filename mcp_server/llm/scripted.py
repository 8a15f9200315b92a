"""The scripted model: deterministic answers for tests and trials."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio

from mcp_server.errors import ConfigurationError
from mcp_server.llm import ChatRequest, Chunk, Completion, ModelInfo, UpstreamError
from mcp_server.llm.choices import several
from mcp_server.llm.collect import collect
from mcp_server.llm.custom_tools import as_custom, as_functions
from mcp_server.llm.schema_instance import make_instance
from mcp_server.llm.script_file import Turn, load_turns
from mcp_server.llm.tool_choice import read_tool_choice
from mcp_server.llm.wire import (
    Frame,
    list_of,
    messages_of,
    object_of,
    text_of,
    tool_call,
    usage_of,
    wants_usage,
)

MODEL_ID = "scripted"

_WORD = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str | None
    calls: tuple[dict[str, Any], ...] = ()
    cut: bool = False

    @property
    def finish_reason(self) -> str:
        if self.calls:
            return "tool_calls"
        return "length" if self.cut else "stop"

    @property
    def message(self) -> dict[str, Any]:
        calls = {"tool_calls": list(self.calls)} if self.calls else {}
        return {"content": self.text, **calls}

    @property
    def words(self) -> int:
        texts = [self.text or "", *map(_written, self.calls)]
        return sum(len(text.split()) for text in texts)


class ScriptedModel:
    """Answers by the rules of the contract, or by the turns of a YAML file; the only model is `scripted`."""

    provider = "scripted"

    def __init__(self, turns: tuple[Turn, ...] = (), *, name: str = "scripted:") -> None:
        self.name = name
        self.description = f"the scripted model ({name})"
        self._turns = turns

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer at once; usage counts words. Raises UpstreamError where the script says error."""
        if (request.get("n") or 1) > 1 or request.get("logprobs"):
            streamed = {**request, "stream_options": {"include_usage": True}}
            async with aclosing(self.stream(streamed)) as chunks:
                return await collect(chunks)
        answer = await self._answer(request)
        frame = Frame(str(request.get("model") or MODEL_ID))
        return frame.completion(answer.message, answer.finish_reason, _usage(request, answer))

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Answer word by word, then `finish_reason`, then usage if it was asked for."""
        async with aclosing(several(self._stream, request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        answer = await self._answer(request)
        frame = Frame(str(request.get("model") or MODEL_ID), wants_usage(request))
        yield frame.chunk({"role": "assistant", "content": None if answer.calls else ""})
        for word in _words(answer.text or ""):
            chunk = frame.chunk({"content": word})
            if request.get("logprobs"):
                chunk["choices"][0]["logprobs"] = _certain(word, request.get("top_logprobs") or 0)
            yield chunk
        for index, call in enumerate(answer.calls):
            for chunk in frame.call_chunks(index, call, _words(_written(call))):
                yield chunk
        yield frame.chunk({}, answer.finish_reason)
        if frame.include_usage:
            yield frame.usage(_usage(request, answer))

    async def models(self) -> list[ModelInfo]:
        """List the one model."""
        return [ModelInfo(MODEL_ID, self.name, ("chat", "tools", "json_schema"), healthy=True)]

    def warm(self) -> None:
        """Nothing to load."""

    async def _answer(self, request: ChatRequest) -> _Answer:
        plain, custom = as_functions(request)
        answer = await self._said(plain)
        calls = tuple(as_custom(call, custom) for call in answer.calls)
        return _shortened(replace(answer, calls=calls), request)

    async def _said(self, request: ChatRequest) -> _Answer:
        if not self._turns:
            return _by_rule(request)
        said = sum(1 for message in messages_of(request) if message.get("role") == "assistant")
        turn = self._turns[min(said, len(self._turns) - 1)]
        if turn.delay_seconds:
            await anyio.sleep(turn.delay_seconds)
        if turn.error is not None:
            body = {"message": turn.error.message}
            raise UpstreamError(turn.error.status, body, upstream=self.name)
        calls = tuple(tool_call(call.name, call.arguments) for call in turn.tool_calls)
        return _Answer(turn.text, calls)


def open_scripted(file: str) -> ScriptedModel:
    """Make the model of `scripted:FILE`, or of `scripted:` if `file` is empty.

    Raises ConfigurationError if the file cannot be read or does not hold a script.
    """
    if not file:
        return ScriptedModel()
    path = Path(file).expanduser()
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(
            f"ISTHMUS_LLM_URL: cannot read the script {path}: {reason}."
        ) from error
    return ScriptedModel(load_turns(content, str(path)), name=f"scripted:{path.name}")


def _by_rule(request: ChatRequest) -> _Answer:
    messages = messages_of(request)
    roles = [message.get("role") for message in messages]
    last_user = len(roles) - 1 - roles[::-1].index("user") if "user" in roles else -1
    asked = text_of(messages[last_user].get("content")) if last_user >= 0 else ""
    results = [message for message in messages[last_user + 1 :] if message.get("role") == "tool"]
    choice = read_tool_choice(request)
    if choice.functions and not results:
        function = choice.functions[0]
        arguments = make_instance(function.get("parameters") or {"type": "object"}, asked)
        return _Answer(None, (tool_call(function["name"], _json(arguments)),))
    schema = _response_schema(request)
    if schema is not None:
        return _Answer(_json(make_instance(schema, asked)))
    return _Answer(text_of(results[-1].get("content")) if results else asked)


def _response_schema(request: ChatRequest) -> object | None:
    wanted = object_of(request.get("response_format"))
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    if wanted.get("type") != "json_schema":
        return None
    return object_of(wanted.get("json_schema")).get("schema", {})


def _usage(request: ChatRequest, answer: _Answer) -> dict[str, Any]:
    texts = [text_of(message.get("content")) for message in messages_of(request)]
    return usage_of(sum(len(text.split()) for text in texts), answer.words)


def _shortened(answer: _Answer, request: ChatRequest) -> _Answer:
    """Cut the text before the first of its stops, then at the limit of tokens, which are words here."""
    if answer.calls or answer.text is None:
        return answer
    text = answer.text
    stop: object = request.get("stop")
    for each in [stop] if isinstance(stop, str) else list_of(stop):
        text = text.partition(each)[0] if each else text
    most = request.get("max_completion_tokens") or request.get("max_tokens")
    words = _words(text)
    if most is None or len(words) <= most:
        return replace(answer, text=text)
    return replace(answer, text="".join(words[:most]), cut=True)


def _certain(word: str, alternatives: int) -> dict[str, Any]:
    """Give the log probabilities of a word: a script has no doubts, and no other word in mind."""
    token: dict[str, Any] = {"token": word, "logprob": 0.0, "bytes": list(word.encode())}
    return {
        "content": [{**token, "top_logprobs": [token] if alternatives else []}],
        "refusal": None,
    }


def _written(call: dict[str, Any]) -> str:
    return call["custom"]["input"] if call["type"] == "custom" else call["function"]["arguments"]


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
