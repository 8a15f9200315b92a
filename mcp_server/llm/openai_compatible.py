"""The engine for any upstream that speaks OpenAI's chat-completions API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson

from mcp_server.errors import Unavailable
from mcp_server.llm import ChatRequest, Chunk, Completion, ModelInfo, UpstreamError
from mcp_server.llm.api_client import ApiClient, open_api_client
from mcp_server.llm.api_errors import refusal_in_stream
from mcp_server.llm.wire import list_of, object_of

# Upstreams list all kinds of models without saying which; a chat request must not land on these.
_NOT_CHAT = ("rerank", "whisper", "tts", "dall-e", "moderation", "transcribe", "image", "sora")
_EMBEDDING = ("embed", "bge-", "minilm", "e5-")


class OpenAICompatible:
    """Passes chat requests on as they are, but for `stream`."""

    def __init__(self, client: ApiClient) -> None:
        self.name = client.name
        self.description = client.name
        self._client = client

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer in one piece. Raises UpstreamError with the upstream's own status and error object."""
        body = {key: value for key, value in request.items() if key != "stream_options"}
        body["stream"] = False
        answer = await self._client.post("/chat/completions", body)
        return self._object(answer, "choices")

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Pass on each chunk as it comes.

        Raises UpstreamError for a refusal (before the first chunk, or in mid-stream) and
        Unavailable if the upstream goes away before every choice has its `finish_reason`.
        """
        unfinished: set[int] = set()
        chunk: Chunk | None = None
        events = self._client.post_stream("/chat/completions", {**request, "stream": True})
        async with aclosing(events):
            async for event in events:
                if event is None and chunk is not None:
                    for index in sorted(unfinished):  # a sloppy upstream: it is done all the same
                        end: dict[str, Any] = {"index": index, "delta": {}, "finish_reason": "stop"}
                        yield {**chunk, "choices": [end]}
                    return
                chunk = self._chunk(event or b"")
                for choice in chunk.get("choices") or ():
                    if choice.get("finish_reason"):
                        unfinished.discard(choice.get("index", 0))
                    else:
                        unfinished.add(choice.get("index", 0))
                yield chunk
        if unfinished or chunk is None:
            raise Unavailable(f"{self.name} broke off in the middle of its answer.")

    async def models(self) -> list[ModelInfo]:
        """Ask `GET /models`; what a model can do is guessed from its name."""
        try:
            answer = self._object(await self._client.get("/models"), "data")
        except UpstreamError as error:
            if error.status != 404:
                raise
            raise Unavailable(
                f"{self.name} has no list of models (GET {self.name}/models is not found): "
                "should the address end in /v1?"
            ) from error
        ids = [object_of(each).get("id") for each in list_of(answer["data"])]
        return [
            ModelInfo(model_id, self.name, _capabilities(model_id), healthy=True)
            for model_id in ids
            if isinstance(model_id, str)
        ]

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ask `POST /embeddings` with an OpenAI body; gives the whole answer."""
        return self._object(await self._client.post("/embeddings", body), "data")

    def warm(self) -> None:
        """Nothing to load."""

    def _chunk(self, event: bytes) -> Chunk:
        try:
            chunk = object_of(orjson.loads(event))
        except orjson.JSONDecodeError as error:
            raise Unavailable(f"{self.name} sent a chunk that is not JSON.") from error
        if chunk.get("error"):
            raise refusal_in_stream(chunk, self.name)
        return chunk

    def _object(self, answer: object, key: str) -> dict[str, Any]:
        found = object_of(answer)
        if key in found:
            return found
        if found.get("error"):
            raise refusal_in_stream(found, self.name)
        raise Unavailable(f"{self.name} does not speak OpenAI's API: its answer has no {key!r}.")


@asynccontextmanager
async def open_openai_compatible(
    base_url: str, api_key: str | None
) -> AsyncGenerator[OpenAICompatible]:
    """Open the upstream at `base_url` (without closing slash); it connects when it is first used."""
    async with open_api_client(base_url, api_key) as client:
        yield OpenAICompatible(client)


def _capabilities(model_id: str) -> tuple[str, ...]:
    name = model_id.lower()
    if any(part in name for part in _EMBEDDING):
        return ("embeddings",)
    if any(part in name for part in _NOT_CHAT):
        return ()
    return ("chat", "tools", "json_schema")
