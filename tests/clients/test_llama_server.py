"""llama.cpp's own HTTP server as an upstream: found out by asking it, with nothing said about what it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.doors.live import Live, open_live
from tests.servers.llama import serve_llama

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"size": {"enum": ["small", "large"]}},
    "required": ["size"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    with serve_llama() as url:
        async with open_live(scratch / "llama", llm_url=(url,)) as live:
            yield live


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client:
        yield client


def asking(**more: Any) -> Any:
    messages = [{"role": "user", "content": "How large is a whale?"}]
    return {"model": "smollm2", "messages": messages, "temperature": 0, "seed": 1} | more


async def test_a_chat_says_the_same_whole_and_streamed(client: AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(**asking(max_completion_tokens=6))
    said, reason = whole.choices[0].message.content, whole.choices[0].finish_reason
    given = asking(max_tokens=6, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in await client.chat.completions.create(**given)]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == said
    assert len([piece for piece in pieces if piece]) > 1
    assert chunks[-2].choices[0].finish_reason == reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage == whole.usage or chunks[-1].usage.completion_tokens == 6


async def test_a_schema_is_honoured(client: AsyncOpenAI) -> None:
    written: Any = {
        "format": {"type": "json_schema", "name": "m", "schema": SCHEMA, "strict": True}
    }
    response = await client.responses.create(model="smollm2", input="How large?", text=written)
    assert json.loads(response.output_text)["size"] in {"small", "large"}


async def test_its_embeddings_come_through(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="smollm2", input=["one", "two"])
    assert len({len(each.embedding) for each in answer.data}) == 1
    assert [each.index for each in answer.data] == [0, 1]
    assert answer.data[0].embedding != answer.data[1].embedding


async def test_its_models_are_listed(client: AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    assert "smollm2" in listed
