"""An upstream that refuses what OpenAI's document does not allow: everything that this server asks gets through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.doors.live import Live, http_client, open_live, serving
from tests.servers.steady import StrictUpstream, serve_document

SERVED = ["moderations", "transcriptions", "speech", "images"]
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
FUNCTION: Any = {"name": "add", "description": "Add.", "parameters": PARAMETERS}
ADD: Any = {"type": "function", "function": FUNCTION}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
PERSON: Any = {"name": "person", "strict": True, "schema": PARAMETERS}


@pytest.fixture(scope="module")
async def strict(anyio_backend: object, scratch: Path) -> AsyncIterator[StrictUpstream]:
    with serve_document(scratch / "steady") as url:
        async with http_client() as judge:
            judge.base_url = url
            yield StrictUpstream(judge)


@pytest.fixture(scope="module")
async def live(anyio_backend: object, strict: StrictUpstream, scratch: Path) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(strict.app()))
        upstream = {"url": f"{url}/v1", "serves": SERVED, "strict": True}
        settings = {"upstreams": {"strict": upstream}, "llm_model": "strict", "llm_url": ()}
        yield await stack.enter_async_context(open_live(scratch / "strict", **settings))


@pytest.fixture
async def client(live: Live, strict: StrictUpstream) -> AsyncIterator[AsyncOpenAI]:
    strict.asked.clear()
    strict.refused.clear()
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client:
        yield client
    assert strict.refused == []
    assert strict.asked


def user(content: Any) -> Any:
    return [{"role": "user", "content": content}]


CHATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "of all roles": {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "system", "content": "Be brief.", "name": "house"},
            *user("hi"),
            {"role": "assistant", "content": None, "refusal": "no"},
            *user([{"type": "text", "text": "hi"}]),
        ]
    },
    "with an image": {
        "messages": user(
            [
                {"type": "text", "text": "what is it?"},
                {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
            ]
        )
    },
    "with every knob": {
        "temperature": 0.5,
        "top_p": 1,
        "seed": 1,
        "stop": ["a", "b"],
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "logit_bias": {"5": -100},
        "logprobs": True,
        "top_logprobs": 2,
        "max_completion_tokens": 5,
        "reasoning_effort": "low",
        "verbosity": "low",
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "service_tier": "auto",
        "metadata": {"k": "v"},
    },
    "with fields that OpenAI does not know": {"extra_body": {"top_k": 5, "min_p": 0.1}},
    "that is kept": {"store": True, "metadata": {"k": "v"}},
    "to a schema": {"response_format": {"type": "json_schema", "json_schema": PERSON}},
    "to JSON": {"response_format": {"type": "json_object"}},
    "with a tool": {"tools": [ADD], "tool_choice": "required", "parallel_tool_calls": False},
    "with a named tool": {
        "tools": [ADD],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
    },
    "with allowed tools": {
        "tools": [ADD],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [ADD]},
        },
    },
    "with a custom tool": {
        "tools": [{"type": "custom", "custom": {"name": "say", "format": {"type": "text"}}}]
    },
    "with old functions": {"functions": [FUNCTION], "function_call": {"name": "add"}},
    "with a result": {
        "tools": [ADD],
        "messages": [
            *user("hi"),
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "add", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "3"}]},
        ],
    },
    "with this server's tools": {
        "tools": [{"type": "mcp", "server_label": "isthmus", "allowed_tools": ["model_list"]}]
    },
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("chat", CHATS)
async def test_a_chat(client: AsyncOpenAI, chat: str, stream: bool) -> None:
    asked: Any = {"model": "strict", "messages": user("hi"), "stream": stream} | CHATS[chat]
    if stream:
        asked["stream_options"] = {"include_usage": True}
    answer = await client.chat.completions.create(**asked)
    if stream:
        chunks = [chunk async for chunk in answer]
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
        assert reasons[-1] is not None
    else:
        assert answer.choices[0].finish_reason


RESPONSES: dict[str, dict[str, Any]] = {
    "plain": {"instructions": "Be kind.", "reasoning": {"effort": "low"}, "max_output_tokens": 20},
    "to a schema": {"text": {"format": {"type": "json_schema", **PERSON}, "verbosity": "low"}},
    "with a tool": {"tools": [{"type": "function", "strict": True, **FUNCTION}]},
    "with a tool that says nothing": {
        "tools": [{"type": "function", "name": "add", "parameters": None, "strict": None}],
        "tool_choice": {"type": "function", "name": "add"},
    },
    "with a custom tool": {"tools": [{"type": "custom", "name": "say"}]},
    "with this server's tools": {
        "tools": [
            {
                "type": "mcp",
                "server_label": "isthmus",
                "allowed_tools": ["model_list"],
                "require_approval": "never",
            }
        ]
    },
    "with a history": {
        "input": [
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "look"},
                    {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
                ],
            },
            {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "3"},
            {"role": "user", "content": "go on"},
        ]
    },
}


@pytest.mark.parametrize("response", RESPONSES)
async def test_a_response(client: AsyncOpenAI, response: str) -> None:
    asked: Any = {"model": "strict", "input": "hi"} | RESPONSES[response]
    answer = await client.responses.create(**asked)
    assert answer.status == "completed"


async def test_completions_and_embeddings(client: AsyncOpenAI) -> None:
    completion = await client.completions.create(model="strict", prompt=["a", "b"], max_tokens=3)
    assert len(completion.choices) == 2
    for given in ("text", ["one", "two"], [1, 2, 3], [[1, 2], [3]]):
        for form in ("float", "base64"):
            answer = await client.embeddings.with_raw_response.create(
                model="strict", input=given, encoding_format=form, dimensions=2
            )
            assert answer.status_code == 200


async def test_what_is_passed_on(client: AsyncOpenAI, strict: StrictUpstream) -> None:
    file = ("talk.wav", b"RIFF", "audio/wav")
    await client.moderations.create(input=["a", "b"], model="strict")
    await client.images.generate(prompt="a strait", model="strict", n=1, size="1024x1024")
    await client.audio.transcriptions.create(file=file, model="strict", response_format="json")
    spoken = await client.audio.speech.create(input="hi", model="strict", voice="alloy")
    assert spoken.content
    assert [path for path, _ in strict.asked] == [
        "/moderations",
        "/images/generations",
        "/audio/transcriptions",
        "/audio/speech",
    ]


async def test_the_upstream_is_strict(strict: StrictUpstream) -> None:
    wrong = {"model": "strict", "messages": [{"role": "nobody", "content": 5}]}
    answer = await strict.judge.post("/chat/completions", json=wrong)
    assert answer.status_code == 400
    assert "messages" in answer.text
