"""Texts become vectors: with the embedded encoder, and with an upstream."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from mcp_server.errors import ConfigurationError, InvalidInput, Unavailable
from mcp_server.ingest.embed import Embedder, open_embedder
from mcp_server.llm import UpstreamError
from tests.contract.llm_upstream import Answer, Exchange, Upstream, serving


@dataclass(frozen=True)
class Settings:
    embeddings_url: str | None = None
    embeddings_model: str | None = None
    embeddings_api_key: str | None = None


def cosine(one: list[float], two: list[float]) -> float:
    return sum(a * b for a, b in zip(one, two, strict=True))


@pytest.fixture(scope="module")
async def embedded(anyio_backend: Any) -> AsyncIterator[Embedder]:
    async with open_embedder(Settings()) as embedder:
        yield embedder


async def test_vectors_are_normalised_and_know_meaning_across_languages(embedded: Embedder) -> None:
    texts = ["How do I reset my password?", "怎样重置密码？", "The cat sleeps on the sofa."]
    english, chinese, cat = vectors = await embedded.embed(texts)
    assert embedded.model == "universal-sentence-encoder-multilingual-3"
    assert {len(vector) for vector in vectors} == {embedded.dimensions} == {512}
    assert all(math.isclose(cosine(vector, vector), 1, abs_tol=1e-3) for vector in vectors)
    assert cosine(english, chinese) > 0.7 > cosine(english, cat) + 0.3


async def test_many_texts_come_back_in_their_order(embedded: Embedder) -> None:
    texts = [f"text number {i} about {'cats' if i % 2 else 'databases'}" for i in range(75)]
    vectors = await embedded.embed(texts)
    alone = await embedded.embed([texts[70]])
    assert len(vectors) == 75
    assert cosine(vectors[70], alone[0]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("text", ["", " ", "\n", "\x00", "\ud800", "🙂", "a" * 32_768])
async def test_any_text_has_a_vector(embedded: Embedder, text: str) -> None:
    (vector,) = await embedded.embed([text])
    assert math.isclose(cosine(vector, vector), 1, abs_tol=1e-3)


async def test_no_texts_give_no_vectors(embedded: Embedder) -> None:
    assert await embedded.embed([]) == []


async def test_a_text_that_is_too_long_is_refused_by_position(embedded: Embedder) -> None:
    with pytest.raises(InvalidInput, match="text 1 has 32769 characters") as refused:
        await embedded.embed(["fine", "x" * 32_769])
    assert refused.value.param == "input"


async def test_a_cancel_does_not_wait_for_the_rest(embedded: Embedder) -> None:
    texts = ["one sentence after another " * 20] * 2_000  # a minute of work and more
    started = time.monotonic()
    with anyio.move_on_after(0.1) as scope:
        await embedded.embed(texts)
    assert scope.cancelled_caught
    assert time.monotonic() - started < 30


async def test_the_event_loop_goes_on_and_others_take_their_turn(embedded: Embedder) -> None:
    await embedded.embed(["warm"])
    texts = ["one sentence after another " * 20] * 100
    ticks = 0
    long = asyncio.create_task(embedded.embed(texts))
    short = asyncio.create_task(embedded.embed(["short"]))
    while not short.done():
        await asyncio.sleep(0.005)
        ticks += 1
    assert not long.done()
    assert ticks > 3
    assert len(await long) == 100


@asynccontextmanager
async def asking(answer: Answer, **settings: Any) -> AsyncIterator[tuple[Embedder, Upstream]]:
    async with serving(answer) as upstream:
        async with open_embedder(Settings(upstream.url, **settings)) as embedder:
            yield embedder, upstream


async def lengths(exchange: Exchange) -> None:
    """Embed each text as its length, and list the vectors in reverse."""
    if exchange.line.startswith("GET"):
        models = [{"id": "llama"}, {"id": "nomic-embed-text"}]
        await exchange.send_json(200, {"object": "list", "data": models})
        return
    texts = exchange.body["input"]
    vectors = [{"index": i, "embedding": [float(len(each)), 1.0]} for i, each in enumerate(texts)]
    await exchange.send_json(200, {"object": "list", "data": vectors[::-1]})


async def test_an_upstream_is_asked_in_batches_and_answers_in_order() -> None:
    settings = {"embeddings_model": "m", "embeddings_api_key": "sk-embed"}
    async with asking(lengths, **settings) as (embedder, upstream):
        assert embedder.dimensions == 0
        vectors = await embedder.embed(["x" * i for i in range(600)])
        assert [vector[0] for vector in vectors] == list(range(600))
        assert (embedder.model, embedder.dimensions) == ("m", 2)
        assert await embedder.embed([]) == []
    assert [len(each.body["input"]) for each in upstream.exchanges] == [256, 256, 88]
    assert {each.body["model"] for each in upstream.exchanges} == {"m"}
    assert {each.headers["authorization"] for each in upstream.exchanges} == {"Bearer sk-embed"}
    assert {each.line.split()[1] for each in upstream.exchanges} == {"/v1/embeddings"}


async def test_without_a_model_the_first_that_embeds_is_taken_once() -> None:
    async with asking(lengths) as (embedder, upstream):
        await embedder.embed(["a"])
        await embedder.embed(["b"])
        assert embedder.model == "nomic-embed-text"
    assert [each.line.split()[0] for each in upstream.exchanges] == ["GET", "POST", "POST"]


def giving(payload: Any, status: int = 200) -> Answer:
    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(status, payload)

    return answer


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 5, "embedding": [1.0]}],
        [{"index": 0, "embedding": "AACAPw=="}, {"index": 1, "embedding": "AACAPw=="}],
        ["odd", "odd"],
    ],
)
async def test_an_answer_with_wrong_vectors_is_unavailable(entries: list[Any]) -> None:
    async with asking(giving({"data": entries}), embeddings_model="m") as (embedder, _):
        with pytest.raises(Unavailable, match="for each text with the model m"):
            await embedder.embed(["a", "b"])


async def test_a_refusal_keeps_its_status() -> None:
    answer = giving({"error": {"message": "slow down"}}, 429)
    async with asking(answer, embeddings_model="m") as (embedder, _):
        with pytest.raises(UpstreamError, match="slow down") as refused:
            await embedder.embed(["a"])
    assert refused.value.status == 429


@pytest.mark.parametrize("url", ["ftp://host/v1", "http://", "http://u:secret@host/v1"])
async def test_a_malformed_url_is_refused_at_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ISTHMUS_EMBEDDINGS_URL") as refused:
        async with open_embedder(Settings(url)):
            pass
    assert "secret" not in str(refused.value)
