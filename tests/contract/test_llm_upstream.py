"""An OpenAI-compatible upstream through the client, well-behaved and not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from mcp_server.errors import AppError, InvalidInput, Unavailable
from mcp_server.llm import Chunk, UpstreamError
from mcp_server.llm.openai_compatible import OpenAICompatible, open_openai_compatible
from tests.contract.llm_upstream import (
    EVENT_STREAM,
    Answer,
    Exchange,
    Upstream,
    chunk,
    data,
    serving,
)

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "x_y": 1}
COMPLETION = {"id": "c", "object": "chat.completion", "choices": [{"index": 0}], "extra": "kept"}


@asynccontextmanager
async def asking(
    answer: Answer, key: str | None = "sk-upstream"
) -> AsyncIterator[tuple[OpenAICompatible, Upstream]]:
    async with serving(answer) as upstream, open_openai_compatible(upstream.url, key) as model:
        yield model, upstream


async def everything(model: OpenAICompatible) -> list[Chunk]:
    async with aclosing(model.stream(REQUEST)) as chunks:
        return [each async for each in chunks]


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


REFUSALS: list[tuple[int, Any, str, dict[str, Any]]] = [
    (
        400,
        {"error": {"message": "too long", "type": "invalid_request_error", "param": "messages",
                   "code": "context_length_exceeded"}},
        "invalid_input",
        {"message": "too long", "type": "invalid_request_error", "param": "messages",
         "code": "context_length_exceeded"},
    ),
    (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "m"}},
     "invalid_input", {"code": "context_length_exceeded", "type": "invalid_request_error"}),
    (400, {"object": "error", "message": "vLLM says", "code": 400},
     "invalid_input", {"message": "vLLM says", "code": None}),
    (401, {"error": {"message": "bad key", "code": "invalid_api_key"}}, "unavailable",
     {"code": "invalid_api_key"}),
    (404, {"error": "model not found"}, "not_found", {"message": "model not found"}),
    (422, {"detail": [{"msg": "m"}]}, "invalid_input", {"message": "[{'msg': 'm'}]"}),
    (429, {"error": {"message": "slow", "type": "tokens"}}, "limit_exceeded", {"type": "tokens"}),
    (500, {}, "unavailable", {"type": "server_error"}),
    (503, ["odd"], "unavailable", {"type": "server_error"}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "payload", "code", "body"), REFUSALS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_keeps_its_status_and_error_object(
    status: int, payload: Any, code: str, body: dict[str, Any], stream: bool
) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(status, payload, "Retry-After: 7\r\n")

    async with asking(answer) as (model, upstream):
        with pytest.raises(UpstreamError) as refused:
            await (everything(model) if stream else model.complete(REQUEST))
    error = refused.value
    assert (error.status, error.code, error.upstream) == (status, code, upstream.url)
    assert error.body.items() >= body.items()
    assert set(error.body) >= {"message", "type", "param", "code"}
    assert error.body["message"]
    assert error.retry_after == 7


async def test_a_page_of_a_proxy_is_not_shown() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
        )

    async with asking(answer) as (model, _):
        with pytest.raises(UpstreamError, match="answered with status 502"):
            await model.complete(REQUEST)


async def test_an_error_in_mid_stream_is_raised_after_what_came_before() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(EVENT_STREAM)
        await exchange.send_events(chunk("a"), {"error": {"message": "out of memory", "code": 500}})
        await exchange.send_events("[DONE]")
        exchange.writer.close()

    async with asking(answer) as (model, _), aclosing(model.stream(REQUEST)) as chunks:
        assert (await anext(chunks))["choices"][0]["delta"] == {"content": "a"}
        with pytest.raises(UpstreamError, match="out of memory") as refused:
            await anext(chunks)
    assert refused.value.status == 500


def broken(*pieces: bytes) -> Answer:
    async def answer(exchange: Exchange) -> None:
        for piece in pieces:
            await exchange.send(piece)
        exchange.writer.close()

    return answer


CHUNKED = EVENT_STREAM.replace(b"Connection: close", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    "answer",
    [
        broken(),
        broken(EVENT_STREAM),
        broken(EVENT_STREAM, b": ping\n\n"),
        broken(EVENT_STREAM, data(chunk("a"))),
        broken(EVENT_STREAM, data(chunk("a")), b'data: {"choices": [{"ind'),
        broken(EVENT_STREAM, data("[DONE]")),
        broken(EVENT_STREAM, data("not json")),
        broken(CHUNKED, b"20\r\ndata: "),
        broken(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-"),
        broken(b"nonsense\r\n\r\n"),
        broken(b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_an_upstream_that_breaks_off_is_unavailable(answer: Answer) -> None:
    async with asking(answer) as (model, _):
        with pytest.raises(Unavailable):
            await everything(model)


@pytest.mark.parametrize(
    "answer",
    [
        broken(),
        broken(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
        broken(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<xml"),
        broken(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    ],
)
async def test_an_answer_that_is_none_is_unavailable(answer: Answer) -> None:
    async with asking(answer) as (model, _):
        with pytest.raises(Unavailable):
            await model.complete(REQUEST)


async def test_nobody_there_is_unavailable_and_says_where() -> None:
    async with serving(broken()) as upstream:
        pass
    async with open_openai_compatible(upstream.url, None) as model:
        with pytest.raises(Unavailable, match=upstream.url):
            await model.complete(REQUEST)


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


async def test_a_list_that_is_not_found_hints_at_the_address() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")

    async with asking(answer) as (model, _):
        with pytest.raises(Unavailable, match="should the address end in /v1"):
            await model.models()
