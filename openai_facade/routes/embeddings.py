"""`POST /v1/embeddings`: vectors of texts or token arrays, by the server's embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from mcp_server.auth.principal import current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.errors import NotFound
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
    principal = current_principal()
    async with (
        exchange.while_connected(),
        facade.operations(principal, "run", f"model://{request.model}", metered=True),
    ):
        _require_fit(request, facade.embedder)
        texts, tokens = _texts(request)
        vectors = await facade.embedder.embed(texts)
        if request.encoding == "base64":
            answer = embedding_list(
                request.model, [encode_base64(each) for each in vectors], tokens
            )
        else:
            answer = embedding_list(request.model, vectors, tokens)
        await exchange.answer(orjson.dumps(answer))


def _require_fit(request: EmbeddingRequest, embedder: Embedder) -> None:
    if request.model not in ("default", embedder.model):
        raise NotFound(
            f"The model '{request.model}' does not embed here; use 'default' or "
            f"'{embedder.model}'.",
            param="model",
        )
    if request.dimensions not in (None, embedder.dimensions):
        raise unsupported(
            "dimensions",
            f"'{embedder.model}' has {embedder.dimensions} dimensions and no others; send "
            f"{embedder.dimensions} or leave it out.",
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
