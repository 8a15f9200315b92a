"""The embedder that asks an OpenAI-compatible upstream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp_server.errors import AppError, Unavailable
from mcp_server.llm.api_client import ApiClient
from mcp_server.llm.openai_compatible import OpenAICompatible
from mcp_server.llm.wire import list_of, object_of

_BATCH_TEXTS = 256


class UpstreamEmbedder:
    """Asks `POST /embeddings`. Without a configured model it takes the first that embeds, by its name."""

    def __init__(self, client: ApiClient, model: str | None) -> None:
        self.model = model or "default"
        self.dimensions = 0
        self._chosen = model is not None
        self._upstream = OpenAICompatible(client)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed in batches of 256; the first answer tells `dimensions`, and all others must agree."""
        if not self._chosen:
            self.model = await self._first_model()
            self._chosen = True
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _BATCH_TEXTS):
            vectors += await self._embed_batch(list(texts[start : start + _BATCH_TEXTS]))
        return vectors

    async def _embed_batch(self, texts: list[str]) -> list[list[float]]:
        body: dict[str, Any] = {"model": self.model, "input": texts, "encoding_format": "float"}
        answer = await self._upstream.embed(body)
        vectors: dict[int, list[float]] = {}
        for position, entry in enumerate(map(object_of, list_of(answer["data"]))):
            index = entry.get("index")
            vectors[index if isinstance(index, int) else position] = list_of(entry.get("embedding"))
        listed = [vectors.get(position, []) for position in range(len(texts))]
        dimensions = self.dimensions or len(listed[0])
        if not dimensions or any(len(vector) != dimensions for vector in listed):
            raise Unavailable(
                f"{self._upstream.name} did not give a vector of {dimensions or 'some'} numbers for "
                f"each text with the model {self.model}."
            )
        self.dimensions = dimensions
        return listed

    async def _first_model(self) -> str:
        try:
            listed = await self._upstream.models()
        except AppError:
            return self.model  # it may embed without listing what with
        embedding = [each for each in listed if "embeddings" in each.capabilities]
        return next((each.id for each in [*embedding, *listed]), self.model)
