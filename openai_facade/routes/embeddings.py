"""`POST /v1/embeddings`: vectors of texts or token arrays, by the server's embedder or an upstream's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from mcp_server.doors import DeclaredRoute
from mcp_server.errors import NotFound, Unavailable
from mcp_server.llm.router import DEFAULT
from mcp_server.llm.wire import list_of, object_of
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
        facade.asking(exchange, f"model://{request.model}"),
    ):
        texts, tokens = _texts(request)
        if request.model in (DEFAULT, facade.embedder.model):
            vectors = await _own(request, facade.embedder, texts)
        else:
            vectors, tokens = await _of_an_upstream(facade, request, texts, tokens)
        answer = embedding_list(
            request.model,
            [encode_base64(each) for each in vectors] if request.encoding == "base64" else vectors,
            tokens,
        )
        await exchange.answer(orjson.dumps(answer))


async def _own(
    request: EmbeddingRequest, embedder: Embedder, texts: list[str]
) -> list[list[float]]:
    _require_dimensions(request, embedder.dimensions)
    vectors = await embedder.embed(texts)
    _require_dimensions(request, len(vectors[0]))
    return vectors


async def _of_an_upstream(
    facade: Facade, request: EmbeddingRequest, texts: list[str], tokens: int
) -> tuple[list[list[float]], int]:
    """Ask the model that the id names; its own count of tokens wins over ours."""
    body: dict[str, Any] = {"input": texts, "encoding_format": "float"}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    try:
        model, known_as = await facade.router.resolve_embedding(request.model)
        answer = await model.embed({"model": known_as, **body})
    except NotFound as error:
        raise _no_embedder(request, facade.embedder) from error
    vectors: list[list[float]] = [[] for _ in texts]
    for position, entry in enumerate(map(object_of, list_of(answer.get("data")))):
        index = entry.get("index", position)
        if isinstance(index, int) and 0 <= index < len(vectors):
            vectors[index] = _numbers(entry.get("embedding"))
    if not all(vectors):
        raise Unavailable(f"the model {request.model!r} did not give a vector for each text")
    counted = object_of(answer.get("usage")).get("prompt_tokens")
    return vectors, counted if isinstance(counted, int) else tokens


def _numbers(given: object) -> list[float]:
    """Give a vector; an empty one for what is none."""
    values = list_of(given)
    return values if all(type(value) in (float, int) for value in values) else []


def _no_embedder(request: EmbeddingRequest, embedder: Embedder) -> NotFound:
    return NotFound(
        f"The model '{request.model}' does not embed here; use '{DEFAULT}' or '{embedder.model}'.",
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
