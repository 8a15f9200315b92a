"""Upstreams that answer in shapes of their own: whatever one says, the client learns whose fault it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.doors.live import http_client, open_live, serving


def headed(said: Any, kind: str = "chat.completion.chunk") -> Any:
    head = {"id": "x", "object": kind, "created": 1, "model": "odd"}
    return head | said if isinstance(said, dict) else said


class Says:
    """Answers every chat with `said`, in whatever form that is."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/embeddings", self.whole, methods=["POST"]),
            ]
        )

    async def models(self, _: Request) -> Response:
        return Response('{"data": [{"id": "odd"}]}', media_type="application/json")

    async def whole(self, _: Request) -> Response:
        said = headed(self.said[0], "chat.completion")
        return Response(json.dumps(said), media_type="application/json")

    async def chat(self, request: Request) -> Response:
        if not (await request.json()).get("stream"):
            return await self.whole(request)
        events = "".join(f"data: {json.dumps(headed(each))}\n\n" for each in self.said)
        return Response(f"{events}data: [DONE]\n\n", media_type="text/event-stream")


@pytest.fixture(scope="module")
async def says() -> Says:
    return Says()


@pytest.fixture(scope="module")
async def opened(says: Says, scratch: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(says.app))
        live = await stack.enter_async_context(
            open_live(scratch / "odd-upstream", llm_url=(f"{url}/v1",))
        )
        http = await stack.enter_async_context(http_client(live.headers))
        http.base_url = f"{live.url}/v1"
        yield http


def choice(**more: Any) -> dict[str, Any]:
    return {"index": 0, "finish_reason": None} | more


def call(**more: Any) -> dict[str, Any]:
    function = {"name": "kv_list", "arguments": "{}"}
    return {
        "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function} | more]
    }


END = {"choices": [choice(delta={}, finish_reason="stop")]}
CALLED = {"choices": [choice(delta={}, finish_reason="tool_calls")]}
STREAMS: dict[str, list[Any]] = {
    "a list": [[1]],
    "a number": [5],
    "no choices": [{"id": "x"}, END],
    "choices null": [{"choices": None}, END],
    "choices an object": [{"choices": {"a": 1}}, END],
    "choices of numbers": [{"choices": [5]}, END],
    "choices of nulls": [{"choices": [None]}, END],
    "delta null": [{"choices": [choice(delta=None)]}, END],
    "delta a text": [{"choices": [choice(delta="x")]}, END],
    "content a number": [{"choices": [choice(delta={"content": 5})]}, END],
    "content a list": [{"choices": [choice(delta={"content": [{"text": "a"}]})]}, END],
    "thought an object": [{"choices": [choice(delta={"reasoning_content": {"a": 1}})]}, END],
    "index a text": [{"choices": [choice(index="x", delta={"content": "a"})]}, END],
    "index null": [{"choices": [choice(index=None, delta={"content": "a"})]}, END],
    "index a list": [{"choices": [choice(index=[1], delta={"content": "a"})]}, END],
    "end a number": [{"choices": [choice(delta={"content": "a"}, finish_reason=5)]}],
    "logprobs a text": [{"choices": [choice(delta={"content": "a"}, logprobs="x")]}, END],
    "logprobs of numbers": [
        {"choices": [choice(delta={"content": "a"}, logprobs={"content": [5]})]}
    ],
    "calls a text": [{"choices": [choice(delta={"tool_calls": "x"})]}, CALLED],
    "calls of numbers": [{"choices": [choice(delta={"tool_calls": [5]})]}, CALLED],
    "a call's place far away": [{"choices": [choice(delta=call(index=10**12))]}, CALLED],
    "a call's place a text": [{"choices": [choice(delta=call(index="x"))]}, CALLED],
    "a call's function a text": [{"choices": [choice(delta=call(function="x"))]}, CALLED],
    "a call's function null": [{"choices": [choice(delta=call(function=None))]}, CALLED],
    "a call's name a number": [{"choices": [choice(delta=call(function={"name": 5}))]}, CALLED],
    "a call's id a number": [{"choices": [choice(delta=call(id=5))]}, CALLED],
    "arguments an object": [
        {"choices": [choice(delta=call(function={"name": "kv_list", "arguments": {"a": 1}}))]},
        CALLED,
    ],
    "usage a text": [{"choices": [choice(delta={"content": "a"})], "usage": "x"}, END],
    "usage of texts": [END, {"choices": [], "usage": {"prompt_tokens": "x"}}],
    "usage a list": [END, {"choices": [], "usage": [1]}],
    "an error a text": [{"error": "broken"}],
    "an error a list": [{"error": [1]}],
    "an error of lists": [{"error": {"message": [1], "code": {"a": 1}, "type": 5, "param": [2]}}],
    "nothing": [],
}
FACES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    "stored chat": (
        "/chat/completions",
        {"messages": [{"role": "user", "content": "a"}], "store": True},
    ),
    "chat with tools": (
        "/chat/completions",
        {
            "messages": [{"role": "user", "content": "a"}],
            "tools": [{"type": "mcp", "server_label": "isthmus", "allowed_tools": ["kv_list"]}],
        },
    ),
    "old functions": (
        "/chat/completions",
        {"messages": [{"role": "user", "content": "a"}], "functions": [{"name": "kv_list"}]},
    ),
    "completion": ("/completions", {"prompt": "a", "logprobs": 1}),
    "response": (
        "/responses",
        {
            "input": "a",
            "include": ["message.output_text.logprobs"],
            "tools": [
                {"type": "mcp", "server_label": "isthmus", "require_approval": "never"},
            ],
        },
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("face", FACES)
async def test_no_answer_of_an_upstream_is_a_defect_of_ours(
    opened: httpx2.AsyncClient, says: Says, face: str, stream: bool
) -> None:
    path, body = FACES[face]
    ours: list[str] = []
    for name, said in STREAMS.items():
        says.said = said or [{}]
        if not stream and path != "/responses" and "tools" not in body:
            if name == "content a list":
                continue  # passed on as it is: its client asked for a model that answers so
            says.said = [_whole(said)]
        answer = await opened.post(path, json={"model": "odd", "stream": stream} | body)
        if answer.status_code == 500 or '"internal"' in answer.text:
            ours.append(name)
    assert ours == []


def _whole(given: list[Any]) -> Any:
    """Give what comes in a stream as an upstream would say it at once."""
    first: Any = given[0] if given else {}
    text = json.dumps(first).replace('"delta"', '"message"')
    text = text.replace('"finish_reason": null', '"finish_reason": "stop"')
    said: Any = json.loads(text.replace('"message": null', '"message": {}'))
    choices = said.get("choices") if isinstance(said, dict) else None
    for each in choices if isinstance(choices, list) else ():
        if isinstance(each, dict) and isinstance(each.get("message"), dict):
            each["message"].setdefault("role", "assistant")
    return said


EMBEDDED: list[Any] = [
    {"data": "x"},
    {"data": [5]},
    {"data": [{"embedding": "x"}]},
    {"data": [{"embedding": ["x"]}]},
    {"data": [{"embedding": [None]}]},
    {"data": [{"embedding": [[1.0]]}]},
    {"data": [{"embedding": [1e999]}]},
    {"data": [{"index": "x", "embedding": [1.0]}]},
    {"data": [{"embedding": [1.0]}], "usage": "x"},
    {"data": [{"embedding": [1.0]}], "usage": {"prompt_tokens": "x"}},
]


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_no_embedding_of_an_upstream_is_a_defect_of_ours(
    opened: httpx2.AsyncClient, says: Says, encoding: str
) -> None:
    ours: list[Any] = []
    for said in EMBEDDED:
        says.said = [said]
        body = {"model": "odd", "input": "a", "encoding_format": encoding}
        answer = await opened.post("/embeddings", json=body)
        if answer.status_code == 500 or '"internal"' in answer.text:
            ours.append(said)
    assert ours == []
