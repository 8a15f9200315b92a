"""Responses over a WebSocket: the SDK's connection, its key, its bounds, and what a message may not be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tests.doors.fixtures import make_key
from tests.doors.live import MOST_MESSAGE_BYTES, Live, open_live, serving
from tests.doors.odd_model import OddModel
from tests.doors.test_revocation import Stopwatch
from tests.traffic.check import faults

HELLO = json.dumps({"deltas": [{"content": "Hel"}, {"content": "lo."}]})


class Silent(OddModel):
    """Says nothing to who asks with `hang`, and notes when they leave."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    async def _chat(self, request: Request) -> Response:
        if b"hang" in await request.body():
            return StreamingResponse(self._hang(), media_type="text/event-stream")
        return await super()._chat(request)

    async def _hang(self) -> AsyncIterator[str]:
        self.asked.set()
        try:
            yield ": wait\n\n"
            await asyncio.get_running_loop().create_future()
        finally:
            self.left.set()


@pytest.fixture(scope="module")
def model() -> Silent:
    return Silent()


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path, model: Silent) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(model.app))
        opened = open_live(scratch / "socket", llm_url=(f"{upstream}/v1",))
        yield await stack.enter_async_context(opened)


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def answer(connection: Any, **body: Any) -> list[Any]:
    """Send one request and read the events up to its last."""
    asked: Any = {"type": "response.create", "model": "odd", "input": HELLO} | body
    await connection.send(asked)
    events: list[Any] = []
    async with asyncio.timeout(30):
        while not events or events[-1]["type"] not in {"response.completed", "error"}:
            events.append(json.loads(await connection.recv_bytes()))
    return events


async def test_one_connection_answers_one_request_after_the_other(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        first = await answer(connection)
        assert [event["sequence_number"] for event in first] == list(range(len(first)))
        assert first[0]["type"] == "response.created"
        found = [
            f for each in first for f in faults("/components/schemas/ResponseStreamEvent", each)
        ]
        assert found == []
        done = first[-1]["response"]
        assert done["output"][0]["content"][0]["text"] == "Hello."
        second = await answer(connection, previous_response_id=done["id"])
        assert second[-1]["response"]["previous_response_id"] == done["id"]
    stored = await client.responses.retrieve(done["id"])
    assert stored.output_text == "Hello."


async def test_what_is_not_stored_can_be_gone_on_from_on_its_own_connection_only(
    client: AsyncOpenAI,
) -> None:
    async with client.responses.connect() as connection:
        first = (await answer(connection, store=False))[-1]["response"]
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first["id"])
        second = (await answer(connection, previous_response_id=first["id"]))[-1]["response"]
    items = (await client.responses.input_items.list(second["id"])).data
    assert [item.type for item in items] == ["message"] * 3  # all that the model read
    async with client.responses.connect() as connection:
        (told,) = await answer(connection, previous_response_id=first["id"])
    assert (told["status"], told["error"]["code"]) == (400, "previous_response_not_found")


async def test_a_client_that_leaves_takes_its_upstream_along(
    live: Live, http: aiohttp.ClientSession, model: Silent
) -> None:
    async with http.ws_connect(f"{live.url}/v1/responses", headers=live.headers) as socket:
        await socket.send_json({"type": "response.create", "model": "odd", "input": "hang"})
        async with asyncio.timeout(30):
            await model.asked.wait()
    watch = Stopwatch()
    async with asyncio.timeout(30):
        await model.left.wait()
    watch.check("an upstream")


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("{", None, "invalid_json"),
        ("[]", None, "invalid_type"),
        ('{"type": "response.steer"}', "type", "unsupported_value"),
        ('{"type": "response.create"}', "model", "missing_required_parameter"),
        (
            '{"type": "response.create", "model": "odd", "input": "x", "background": true}',
            "background",
            "unsupported_value",
        ),
        ('{"type": "response.create", "model": "gpt-9", "input": "x"}', "model", "model_not_found"),
    ],
)
async def test_a_message_that_does_not_fit_is_told_so_and_the_connection_stays(
    live: Live, http: aiohttp.ClientSession, message: str, param: str | None, code: str
) -> None:
    async with http.ws_connect(f"{live.url}/v1/responses", headers=live.headers) as socket:
        await socket.send_str(message)
        told = await socket.receive_json(timeout=30)
        assert (told["type"], told["error"]["param"], told["error"]["code"]) == (
            "error",
            param,
            code,
        )
        assert told["status"] in {400, 404}
        await socket.send_str(
            json.dumps({"type": "response.create", "model": "odd", "input": HELLO})
        )
        assert (await socket.receive_json(timeout=30))["type"] == "response.created"


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "/v1/responses", 401),
        ({"Authorization": "Bearer sk-isth-nobody"}, "/v1/responses", 401),
        ({"Host": "evil.example"}, "/v1/responses", 421),
        ({"Origin": "https://evil.example"}, "/v1/responses", 403),
        ({"own": ""}, "/v1/models", 403),
        ({"own": ""}, "/mcp", 403),
    ],
)
async def test_a_connection_needs_a_key_and_a_known_name(
    live: Live, http: aiohttp.ClientSession, headers: dict[str, str], path: str, status: int
) -> None:
    known = {} if status == 401 else live.headers
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with http.ws_connect(f"{live.url}{path}", headers=known | headers):
            pass
    assert refused.value.status == status


async def test_each_message_is_decided_by_itself(live: Live, http: aiohttp.ClientSession) -> None:
    key = await make_key(live, "read")
    headers = {"Authorization": f"Bearer {key['key']}"}
    async with http.ws_connect(f"{live.url}/v1/responses", headers=headers) as socket:
        await socket.send_json({"type": "response.create", "model": "odd", "input": HELLO})
        told = await socket.receive_json(timeout=30)
    assert (told["type"], told["status"]) == ("error", 403)


async def test_a_message_over_the_limit_ends_the_connection(
    live: Live, http: aiohttp.ClientSession
) -> None:
    async with http.ws_connect(f"{live.url}/v1/responses", headers=live.headers) as socket:
        await socket.send_str("x" * (MOST_MESSAGE_BYTES + 1))
        closed = await socket.receive(timeout=30)
    assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1009)


async def test_a_connection_dies_with_its_key(live: Live, http: aiohttp.ClientSession) -> None:
    key = await make_key(live)
    headers = {"Authorization": f"Bearer {key['key']}"}
    async with http.ws_connect(f"{live.url}/v1/responses", headers=headers) as socket:
        await socket.send_json({"type": "response.create", "model": "odd", "input": HELLO})
        while (await socket.receive_json(timeout=30))["type"] != "response.completed":
            pass
        await live.runtime.services.keys.revoke(key["id"])
        watch = Stopwatch()
        told = await socket.receive_json(timeout=30)
        watch.check("a socket")
        assert (told["status"], "revoked" in told["error"]["message"]) == (401, True)
        closed = await socket.receive(timeout=30)
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1008)
