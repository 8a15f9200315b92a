"""`POST /v1/completions`: the older form, in which a model goes on from a text."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from mcp_server.doors import DeclaredRoute
from mcp_server.errors import Unavailable
from mcp_server.llm import Model
from mcp_server.llm.wire import sum_usage, wants_usage
from openai_facade.endpoint import declare
from openai_facade.exchange import Exchange
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.translate.text_completions import Texts, chat_of
from openai_facade.translate.token_arrays import text_of_tokens
from openai_facade.wire.completions import TextRequest, check_completion
from openai_facade.wire.faults import unsupported


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    async def create(exchange: Exchange) -> None:
        body = await exchange.read_object()
        asked = check_completion(body, text_of_tokens)
        if asked.model.startswith(AGENT_PREFIX):
            raise unsupported("model", "an agent has conversations; use /v1/chat/completions.")
        async with (
            exchange.while_connected(),
            facade.asking(exchange, f"model://{asked.model}"),
        ):
            model, known_as = await facade.router.resolve(asked.model)
            completion = _Completion(asked, body, model, known_as)
            if asked.stream:
                await completion.stream(exchange)
            else:
                await completion.answer(exchange)

    return [declare(facade, "/v1/completions", create, methods=["POST"], verb="run")]


@dataclass(slots=True)
class _Completion:
    asked: TextRequest
    body: dict[str, Any]
    model: Model
    known_as: str
    id: str = field(default_factory=lambda: f"cmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def answer(self, exchange: Exchange) -> None:
        choices: list[dict[str, Any]] = []
        usages: list[dict[str, Any]] = []
        for prompt, texts in self._prompts():
            found = await self.model.complete(chat_of(self.body, prompt, self.known_as))
            choices += [texts.whole(choice) for choice in found.get("choices") or ()]
            usages.append(found.get("usage") or {})
        await exchange.answer(orjson.dumps(self._object(choices) | {"usage": sum_usage(usages)}))

    async def stream(self, exchange: Exchange) -> None:
        """Tell the prompts' choices one after the other; the 200 waits for the first piece."""
        async with aclosing(self._objects()) as objects:
            told = await anext(objects, None)
            if told is None:
                raise Unavailable("the model ended its answer before it began; try again")
            async with exchange.open_stream():
                while told is not None:
                    await exchange.event(orjson.dumps(told))
                    told = await anext(objects, None)
                await exchange.done()

    async def _objects(self) -> AsyncGenerator[dict[str, Any], None]:
        asks_usage = wants_usage(self.body)
        later: dict[str, Any] = {"usage": None} if asks_usage else {}
        usages: list[dict[str, Any]] = []
        for prompt, texts in self._prompts():
            chat = chat_of(self.body, prompt, self.known_as)
            chat |= {"stream": True, "stream_options": {"include_usage": True}}
            async with aclosing(self.model.stream(chat)) as chunks:
                async for chunk in chunks:
                    usages += [chunk["usage"]] if chunk.get("usage") else []
                    pieces = [texts.piece(choice) for choice in chunk.get("choices") or ()]
                    shown = [piece for piece in pieces if piece is not None]
                    if shown:
                        yield self._object(shown) | later
        if asks_usage:
            yield self._object([]) | {"usage": sum_usage(usages)}

    def _prompts(self) -> list[tuple[str, Texts]]:
        return [
            (prompt, Texts(index * self.asked.n, prompt if self.asked.echo else ""))
            for index, prompt in enumerate(self.asked.prompts)
        ]

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.asked.model,
            "choices": choices,
        }
