"""An OpenAI-compatible upstream through the client, well-behaved and not."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from mcp_server.errors import AppError, InvalidInput
from tests.contract.llm_upstream import (
    EVENT_STREAM,
    REQUEST,
    Exchange,
    Upstream,
    asking,
    chunk,
    data,
    everything,
)

COMPLETION = {"id": "c", "object": "chat.completion", "choices": [{"index": 0}], "extra": "kept"}


async def test_a_request_passes_on_whole_and_so_does_the_answer() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(200, COMPLETION)

    async with asking(answer) as (model, upstream):
        request = {**REQUEST, "stream": True, "stream_options": {"include_usage": True}}
        assert await model.complete(request) == COMPLETION
    (exchange,) = upstream.exchanges
    assert exchange.line.startswith("POST /v1/chat/completions ")
    assert exchange.headers["authorization"] == "Bearer sk-upstream"
    assert exchange.body == {**REQUEST, "stream": False}
    assert request["stream"] is True


async def test_without_a_key_no_authorization_is_sent() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(200, COMPLETION)

    async with asking(answer, key=None) as (model, upstream):
        await model.complete(REQUEST)
    assert "authorization" not in upstream.exchanges[0].headers


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b"data:[DONE]", b""])
async def test_a_stream_is_read_however_it_is_cut(size: int, end: bytes, done: bytes) -> None:
    sent = [chunk("Grüße"), chunk(" an alle"), chunk(finish="stop")]
    text = b": ping\n\n" + b"event: x\n".join(data(each) for each in sent) + done
    text = text.replace(b"\n", end)

    async def answer(exchange: Exchange) -> None:
        await exchange.send(EVENT_STREAM)
        for start in range(0, len(text), size):
            await exchange.send(text[start : start + size])
        exchange.writer.close()

    async with asking(answer) as (model, upstream):
        assert await everything(model) == sent
    assert upstream.exchanges[0].body == {**REQUEST, "stream": True}


async def test_chunks_come_as_they_are_sent() -> None:
    may_go_on = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(EVENT_STREAM + data(chunk("first")))
        await may_go_on.wait()
        await exchange.send(data(chunk(finish="stop")) + data("[DONE]"))
        exchange.writer.close()

    async with asking(answer) as (model, _), aclosing(model.stream(REQUEST)) as chunks:
        async with asyncio.timeout(5):
            assert (await anext(chunks))["choices"][0]["delta"] == {"content": "first"}
        may_go_on.set()
        assert len([each async for each in chunks]) == 1


async def test_a_connection_serves_again_after_done() -> None:
    async def answer(exchange: Exchange) -> None:
        head = EVENT_STREAM.replace(b"Connection: close", b"Transfer-Encoding: chunked")
        text = data(chunk("a", "stop")) + data("[DONE]")
        await exchange.send(head + f"{len(text):x}\r\n".encode() + text + b"\r\n")
        await exchange.send(b"0\r\n\r\n")

    async with asking(answer) as (model, upstream):
        for _ in range(3):
            await everything(model)
    assert len({id(exchange.writer) for exchange in upstream.exchanges}) == 1


async def test_an_answer_without_finish_reason_but_done_is_ended_properly() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(EVENT_STREAM + data(chunk("a")) + data("[DONE]"))
        exchange.writer.close()

    async with asking(answer) as (model, _):
        assert (await everything(model))[-1]["choices"][0]["finish_reason"] == "stop"


async def test_an_idle_connection_that_was_closed_is_not_an_error() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(200, COMPLETION)
        if len(upstream.exchanges) == 2:
            exchange.writer.transport.abort()

    async with asking(answer) as (model, upstream):
        for _ in range(4):
            assert await model.complete(REQUEST) == COMPLETION


async def slow(exchange: Exchange) -> None:
    await exchange.send(EVENT_STREAM + data(chunk("a")))
    await exchange.gone.wait()


async def silent(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def left(upstream: Upstream) -> None:
    async with asyncio.timeout(5):
        await upstream.exchanges[0].gone.wait()


async def test_closing_a_stream_closes_the_connection() -> None:
    async with asking(slow) as (model, upstream):
        chunks = model.stream(REQUEST)
        await anext(chunks)
        assert not upstream.exchanges[0].gone.is_set()
        await chunks.aclose()
        await left(upstream)


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_before_the_answer_closes_the_connection(stream: bool) -> None:
    async with asking(silent) as (model, upstream):
        task = asyncio.ensure_future(everything(model) if stream else model.complete(REQUEST))
        async with asyncio.timeout(5):
            while not upstream.exchanges:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await left(upstream)


async def test_cancelling_in_mid_stream_closes_the_connection() -> None:
    async with asking(slow) as (model, upstream):
        begun = asyncio.Event()

        async def read() -> None:
            async with aclosing(model.stream(REQUEST)) as chunks:
                async for _ in chunks:
                    begun.set()

        task = asyncio.create_task(read())
        async with asyncio.timeout(5):
            await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await left(upstream)


@pytest.mark.parametrize("value", [2**70, "\ud800"])
async def test_what_has_no_json_form_is_the_callers_mistake(value: object) -> None:
    async with asking(silent) as (model, _):
        with pytest.raises(InvalidInput):
            await model.complete({**REQUEST, "seed": value})


async def test_models_are_listed_with_what_they_can_probably_do() -> None:
    async def answer(exchange: Exchange) -> None:
        ids = ["org/llama", "text-embedding-3", "whisper-1"]
        await exchange.send_json(200, {"object": "list", "data": [{"id": each} for each in ids]})

    async with asking(answer) as (model, _):
        listed = {info.id: info.capabilities for info in await model.models()}
    assert listed == {
        "org/llama": ("chat", "tools", "json_schema"),
        "text-embedding-3": ("embeddings",),
        "whisper-1": (),
    }


@pytest.mark.parametrize("payload", [{"object": "list"}, [], "x", {"error": {"message": "no"}}])
async def test_a_list_that_is_none_is_an_error(payload: Any) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(200, payload)

    async with asking(answer) as (model, _):
        with pytest.raises(AppError):
            await model.models()
