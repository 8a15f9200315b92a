"""Turn texts into vectors, with the embedded model or an upstream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol


class Embedder(Protocol):
    """One embedding model. Vectors of different models must never stand in one index."""

    @property
    def model(self) -> str:
        """The model's id, to be stored beside what it embedded."""
        ...

    @property
    def dimensions(self) -> int:
        """The length of every vector; 0 while an upstream has not answered yet."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Give one vector of `dimensions` floats for each text, in their order.

        It must not block the event loop, and must stop within one batch when cancelled. Raises
        InvalidInput for a text that is too long; Unavailable, Timeout or UpstreamError if the
        model does not answer.
        """
        ...


class EmbeddingSettings(Protocol):
    """What is read of the settings."""

    @property
    def embeddings_url(self) -> str | None: ...
    @property
    def embeddings_model(self) -> str | None: ...
    @property
    def embeddings_api_key(self) -> str | None: ...


@asynccontextmanager
async def open_embedder(settings: EmbeddingSettings) -> AsyncGenerator[Embedder]:
    """Open the embedder of EMBEDDINGS_URL, the embedded one if it is unset; both load when first used.

    Raises ConfigurationError that names ISTHMUS_EMBEDDINGS_URL if it is malformed.
    """
    if settings.embeddings_url is None:
        from mcp_server.ingest.embed_encoder import SentenceEncoder

        yield SentenceEncoder()
        return
    from mcp_server.ingest.embed_upstream import UpstreamEmbedder
    from mcp_server.llm.api_client import open_api_client
    from mcp_server.llm.opening import check_url

    url = check_url(settings.embeddings_url, "ISTHMUS_EMBEDDINGS_URL")
    async with open_api_client(url, settings.embeddings_api_key) as client:
        yield UpstreamEmbedder(client, settings.embeddings_model)
