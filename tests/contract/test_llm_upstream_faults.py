"""An upstream that refuses, breaks off or talks nonsense."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from mcp_server.errors import Unavailable
from mcp_server.llm import UpstreamError
from mcp_server.llm.openai_compatible import open_openai_compatible
from tests.contract.llm_upstream import (
    EVENT_STREAM,
    REQUEST,
    Answer,
    Exchange,
    asking,
    chunk,
    data,
    everything,
    serving,
)

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


async def test_a_list_that_is_not_found_hints_at_the_address() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")

    async with asking(answer) as (model, _):
        with pytest.raises(Unavailable, match="should the address end in /v1"):
            await model.models()
