"""The engine for any upstream that speaks OpenAI's chat-completions API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

import orjson

from mcp_server.errors import AppError, Unavailable
from mcp_server.llm import ChatRequest, Chunk, Completion, ModelInfo, UpstreamError
from mcp_server.llm.api_client import ApiClient, RawAnswer, open_api_client
from mcp_server.llm.api_errors import refusal_in_stream
from mcp_server.llm.batches import Batch, flatten
from mcp_server.llm.shapes import fits
from mcp_server.llm.terms import Terms
from mcp_server.llm.wire import list_of, object_of

# Upstreams list all kinds of models without saying which; a chat request must not land on these.
_NOT_CHAT = ("rerank", "whisper", "tts", "dall-e", "moderation", "transcribe", "image", "sora")
_EMBEDDING = ("embed", "bge-", "minilm", "e5-")
_PLAIN = Terms()


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
        found = self._object(answer, "choices")
        if not fits(found, "message"):
            raise self._unreadable()
        return found

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Pass on each chunk as it comes, as `stream_batches` does."""
        return flatten(self.stream_batches(request))

    async def stream_batches(self, request: ChatRequest) -> AsyncGenerator[Batch, None]:
        """Pass on the chunks of each read together.

        Raises UpstreamError for a refusal (before the first chunk, or in mid-stream) and
        Unavailable if the upstream goes away before every choice has its `finish_reason`.
        """
        unfinished: set[int] = set()
        last: Chunk | None = None
        reads = self._client.post_stream("/chat/completions", {**request, "stream": True})
        async with aclosing(reads):
            async for events in reads:
                batch: Batch = []
                broken: AppError | None = None
                try:
                    for event in events:
                        if event is None and last is not None:
                            batch += _ends(unfinished, last)
                            break
                        last = self._chunk(event or b"")
                        _note_ends(unfinished, last)
                        batch.append(last)
                except AppError as error:
                    broken = error
                if batch:  # what came before a broken event came
                    yield batch
                if broken is not None:
                    raise broken
                if events[-1] is None:
                    return
        if unfinished or last is None:
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
            ModelInfo(model_id, self.name, capabilities_of(model_id), healthy=True)
            for model_id in ids
            if isinstance(model_id, str)
        ]

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ask `POST /embeddings` with an OpenAI body; gives the whole answer."""
        return self._object(await self._client.post("/embeddings", body), "data")

    def warm(self) -> None:
        """Nothing to load."""

    def raw(
        self, path: str, data: bytes, content_type: str
    ) -> AbstractAsyncContextManager[RawAnswer]:
        """POST `data` to `path` as it is; raises like `complete`."""
        return self._client.post_raw(path, data, content_type)

    def _chunk(self, event: bytes) -> Chunk:
        try:
            chunk = object_of(orjson.loads(event))
        except orjson.JSONDecodeError as error:
            raise Unavailable(f"{self.name} sent a chunk that is not JSON.") from error
        if chunk.get("error"):
            raise refusal_in_stream(chunk, self.name)
        if not fits(chunk, "delta"):
            raise self._unreadable()
        return chunk

    def _unreadable(self) -> Unavailable:
        return Unavailable(f"{self.name} does not speak OpenAI's API: its answer cannot be read.")

    def _object(self, answer: object, key: str) -> dict[str, Any]:
        found = object_of(answer)
        if key in found:
            return found
        if found.get("error"):
            raise refusal_in_stream(found, self.name)
        raise Unavailable(f"{self.name} does not speak OpenAI's API: its answer has no {key!r}.")


@asynccontextmanager
async def open_openai_compatible(
    base_url: str, api_key: str | None, *, name: str | None = None, terms: Terms = _PLAIN
) -> AsyncGenerator[OpenAICompatible]:
    """Open the upstream at `base_url` (without closing slash); it connects when it is first used."""
    async with open_api_client(base_url, api_key, name=name, terms=terms) as client:
        yield OpenAICompatible(client)


def _note_ends(unfinished: set[int], chunk: Chunk) -> None:
    for choice in chunk.get("choices") or ():
        if choice.get("finish_reason"):
            unfinished.discard(choice.get("index", 0))
        else:
            unfinished.add(choice.get("index", 0))


def _ends(unfinished: set[int], last: Chunk) -> Batch:
    """Give the ends that a sloppy upstream owes: it said that it is done."""
    return [
        {**last, "choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}
        for index in sorted(unfinished)
    ]


def capabilities_of(model_id: str) -> tuple[str, ...]:
    """Guess what a model can do by its name."""
    name = model_id.lower()
    if any(part in name for part in _EMBEDDING):
        return ("embeddings",)
    if any(part in name for part in _NOT_CHAT):
        return ()
    return ("chat", "tools", "json_schema")
