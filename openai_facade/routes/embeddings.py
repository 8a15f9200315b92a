"""`POST /v1/embeddings`: vectors of texts or token arrays, by the server's embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from mcp_server.doors import DeclaredRoute
from mcp_server.errors import NotFound
from mcp_server.llm.router import DEFAULT
from openai_facade.endpoint import declare
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.translate.token_arrays import count_tokens, text_of_tokens
from openai_facade.translate.vectors import encode_base64
from openai_facade.wire.embeddings import EmbeddingRequest, check_embeddings, embedding_list
from openai_facade.wire.faults import unsupported

if TYPE_CHECKING:
    from mcp_server.ingest.embed import Embedder


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    async def create(exchange: Exchange) -> None:
        await _create(facade, exchange)

    return [declare(facade, "/v1/embeddings", create, methods=["POST"], verb="run")]


async def _create(facade: Facade, exchange: Exchange) -> None:
    request = check_embeddings(await exchange.read_object())
    async with (
        exchange.while_connected(),
        facade.operation(exchange, "run", f"model://{request.model}"),
    ):
        _require_model(request, facade.embedder)
        _require_dimensions(request, facade.embedder.dimensions)
        texts, tokens = _texts(request)
        vectors = await facade.embedder.embed(texts)
        _require_dimensions(request, len(vectors[0]))
        if request.encoding == "base64":
            answer = embedding_list(
                request.model, [encode_base64(each) for each in vectors], tokens
            )
        else:
            answer = embedding_list(request.model, vectors, tokens)
        await exchange.answer(orjson.dumps(answer))


def _require_model(request: EmbeddingRequest, embedder: Embedder) -> None:
    if request.model not in (DEFAULT, embedder.model):
        raise NotFound(
            f"The model '{request.model}' does not embed here; use '{DEFAULT}' or "
            f"'{embedder.model}'.",
            param="model",
        )


def _require_dimensions(request: EmbeddingRequest, offered: int) -> None:
    """Refuse a length that is not the embedder's own; `offered` is 0 while that is not known."""
    if request.dimensions is not None and offered and request.dimensions != offered:
        raise unsupported(
            "dimensions",
            f"'{request.model}' has {offered} dimensions and no others; send {offered} or leave "
            "it out.",
        )


def _texts(request: EmbeddingRequest) -> tuple[list[str], int]:
    """Give every input as text, and how many tokens all of them have."""
    texts: list[str] = []
    tokens = 0
    for index, item in enumerate(request.inputs):
        if isinstance(item, str):
            texts.append(item)
            tokens += count_tokens(item)
        else:
            place = "input" if len(request.inputs) == 1 else f"input[{index}]"
            texts.append(text_of_tokens(place, item))
            tokens += len(item)
    return texts, tokens
