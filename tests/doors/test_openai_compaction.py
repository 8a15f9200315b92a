"""A compacted conversation: what the user said and a sealed summary, which only its tenant can give back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live, serving

SUMMARY = "The user's cat is called Murr."


@dataclass
class Upstream:
    """A model that always says the summary, and remembers what it was asked."""

    asked: list[list[dict[str, Any]]] = field(default_factory=list[list[dict[str, Any]]])

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "plain", "object": "model"}]})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body["messages"])
        if body.get("stream"):
            return StreamingResponse(_events(), media_type="text/event-stream")
        message = {"role": "assistant", "content": SUMMARY}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "plain"}
        return JSONResponse(head | {"choices": [choice], "usage": usage})


async def _events() -> AsyncIterator[str]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "plain"}
    choice = {"index": 0, "delta": {"role": "assistant", "content": "Murr."}, "finish_reason": None}
    yield f"data: {json.dumps(head | {'choices': [choice]})}\n\n"
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield f"data: {json.dumps(head | {'choices': [last]})}\n\n"
    yield "data: [DONE]\n\n"


@dataclass
class World:
    live: Live
    upstream: Upstream
    client: AsyncOpenAI


@pytest.fixture(scope="module")
async def world(anyio_backend: object, scratch: Path) -> AsyncIterator[World]:
    upstream = Upstream()
    routes = [
        Route("/v1/models", upstream.models, methods=["GET"]),
        Route("/v1/chat/completions", upstream.chat, methods=["POST"]),
    ]
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(Starlette(routes=routes)))
        opened = open_live(scratch / "compaction", llm_url=(f"{url}/v1",))
        live = await stack.enter_async_context(opened)
        client = AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0)
        yield World(live, upstream, await stack.enter_async_context(client))


async def compact(world: World) -> Any:
    given: Any = [
        {"role": "user", "content": "My cat is called Murr."},
        {"role": "assistant", "content": "A fine name."},
    ]
    return await world.client.responses.compact(model="plain", input=given)


async def test_a_compaction_stands_for_what_was_said(world: World) -> None:
    made = await compact(world)
    assert made.object == "response.compaction"
    assert [item.type for item in made.output] == ["message", "compaction"]
    assert made.output[0].content[0].text == "My cat is called Murr."
    assert made.usage.total_tokens == 12
    sealed = made.output[1]
    assert "Murr" not in sealed.encrypted_content
    assert "Sum up" in world.upstream.asked[-1][-1]["content"]

    output: Any = [item.to_dict(warnings=False) for item in made.output]
    question: Any = {"role": "user", "content": "What is its name?"}
    answer = await world.client.responses.create(model="plain", input=[*output, question])
    read = [message["content"] for message in world.upstream.asked[-1]]
    assert read[0] == "My cat is called Murr."
    assert SUMMARY in read[1]
    assert read[2] == "What is its name?"
    # It is kept as it came, and read again where the chain goes on.
    items = (await world.client.responses.input_items.list(answer.id)).data
    (kept,) = [item for item in items if item.type == "compaction"]
    assert kept.to_dict()["encrypted_content"] == sealed.encrypted_content
    again = await world.client.responses.compact(model="plain", previous_response_id=answer.id)
    assert any(SUMMARY in str(each["content"]) for each in world.upstream.asked[-1])
    assert [item.type for item in again.output] == ["message", "message", "compaction"]


@pytest.mark.parametrize("change", ["foreign", "cut", "changed", "nonsense"])
async def test_what_was_not_sealed_for_the_tenant_is_refused(world: World, change: str) -> None:
    sealed: str = (await compact(world)).output[1].encrypted_content
    given = {
        "foreign": sealed,
        "cut": sealed[:20],
        "changed": sealed[:-6] + ("A" if sealed[-6] != "A" else "B") + sealed[-5:],
        "nonsense": "a summary, honestly",
    }[change]
    client = world.client
    if change == "foreign":
        key = await make_key(world.live, tenant="strangers")
        client = client.with_options(api_key=key["key"])
    item: Any = {"type": "compaction", "encrypted_content": given}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="plain", input=[item])
    assert "encrypted_content" in caught.value.message


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"model": "plain"}, "input"),
        ({"model": "plain", "input": "x", "conversation": "conv_1"}, "conversation"),
        ({"model": "agent/clerk", "input": "x"}, "model"),
        ({"input": "x"}, "model"),
    ],
)
async def test_what_cannot_be_compacted_is_refused(world: World, more: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await world.client.post("/responses/compact", body=more, cast_to=object)
    assert caught.value.param == param
