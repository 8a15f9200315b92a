"""Chat completions through the OpenAI SDK and over raw HTTP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.errors import Unavailable
from mcp_server.operation import Operations
from tests.doors.openai_door import API_KEY, Door, open_door, until


async def test_a_plain_answer_carries_the_model_that_was_asked_for(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "four small words here"}]
    )

    assert answer.choices[0].message.content == "four small words here"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "default"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


async def test_the_synchronous_client_gets_the_same(door: Door) -> None:
    def ask() -> str | None:
        with OpenAI(base_url=door.base, api_key=API_KEY, max_retries=0) as client:
            answer = client.chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "hello"}]
            )
            return answer.choices[0].message.content

    assert await asyncio.to_thread(ask) == "hello"


async def test_a_stream_says_the_words_one_by_one_and_ends_once(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "one two three"}], stream=True
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {"default"}
    assert len(chunks) > 4
    assert all(chunk.usage is None for chunk in chunks)


async def test_usage_comes_in_a_chunk_of_its_own_only_when_asked_for(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "one two"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 4
    assert all(chunk.choices for chunk in chunks[:-1])


class Reply(BaseModel):
    city: str
    count: int


async def test_a_structured_answer_parses(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model="default", messages=[{"role": "user", "content": "Oslo"}], response_format=Reply
    )

    assert answer.choices[0].message.parsed == Reply(city="Oslo", count=0)


async def test_the_clients_own_tools_pass_through(client: AsyncOpenAI, door: Door) -> None:
    tool: Any = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    messages: list[Any] = [{"role": "user", "content": "Oslo"}]
    first = await client.chat.completions.create(model="default", messages=messages, tools=[tool])
    call = (first.choices[0].message.tool_calls or [])[0]
    assert first.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Oslo"},
    )

    messages += [
        first.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "snow"},
    ]
    second = await client.chat.completions.create(model="default", messages=messages, tools=[tool])
    assert second.choices[0].message.content == "snow"
    assert door.model.requests[0]["tools"] == [tool]


async def test_the_clients_own_tools_stream_with_an_index(client: AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "ping", "parameters": None}}
    async with client.chat.completions.stream(
        model="default", messages=[{"role": "user", "content": "x"}], tools=[tool]
    ) as stream:
        final = await stream.get_final_completion()

    calls = final.choices[0].message.tool_calls or []
    assert [call.function.name for call in calls] == ["ping"]
    assert final.choices[0].finish_reason == "tool_calls"


async def test_unknown_fields_reach_the_model(client: AsyncOpenAI, door: Door) -> None:
    await client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "x"}],
        extra_body={"top_k": 7, "chat_template_kwargs": {"thinking": False}},
    )

    assert door.model.requests[0]["top_k"] == 7
    assert door.model.requests[0]["chat_template_kwargs"] == {"thinking": False}


async def test_a_model_id_may_hold_a_slash(client: AsyncOpenAI, door: Door) -> None:
    answer = await client.chat.completions.create(
        model="vendor/with-slash", messages=[{"role": "user", "content": "x"}]
    )

    assert answer.model == "vendor/with-slash"
    assert door.model.requests[0]["model"] == "vendor/with-slash"


async def test_each_event_of_a_stream_is_one_write(door: Door) -> None:
    async with (
        httpx2.AsyncClient() as http,
        http.stream(
            "POST",
            f"{door.base}/chat/completions",
            headers={"authorization": f"Bearer {API_KEY}"},
            json={
                "model": "default",
                "stream": True,
                "messages": [{"role": "user", "content": " ".join(["word"] * 50)}],
            },
        ) as answer,
    ):
        raw = (await answer.aread()).decode()

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert {"x-request-id", "openai-processing-ms", "openai-version"} <= set(answer.headers)
    assert raw.endswith("data: [DONE]\n\n")
    assert all(event.startswith("data: ") for event in raw.split("\n\n")[:-1])


async def test_a_refusal_before_the_first_word_keeps_its_status(
    control: AsyncEngine, operations: Operations, tmp_path: Path
) -> None:
    script = tmp_path / "refuse.yaml"
    script.write_text("turns: [{error: {status: 418, message: no tea today}}]")
    async with (
        open_door(control, operations, script=script) as door,
        AsyncOpenAI(base_url=door.base, api_key=API_KEY, max_retries=0) as client,
    ):
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(
                    model="default", messages=[{"role": "user", "content": "x"}], stream=stream
                )
            assert caught.value.status_code == 418
            assert caught.value.body == {
                "message": "no tea today",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }


async def test_a_stream_that_breaks_ends_in_an_error_event(door: Door, client: AsyncOpenAI) -> None:
    said: list[None] = []

    async def break_off() -> None:
        said.append(None)
        if len(said) == 3:
            raise Unavailable("the model fell over; try again")

    door.model.between = break_off
    stream = await client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "one two three"}], stream=True
    )
    words = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
    assert words == ["", "one", " two"]
    with pytest.raises(openai.APIError, match="the model fell over") as caught:
        await anext(stream)
    assert caught.value.body == {
        "message": "the model fell over; try again",
        "type": "server_error",
        "param": None,
        "code": "unavailable",
    }


async def test_a_silent_stream_is_kept_alive_by_comments(
    control: AsyncEngine, operations: Operations
) -> None:
    async with open_door(control, operations, ping_seconds=0.02) as door:
        pinged = asyncio.Event()
        door.model.between = pinged.wait
        body = {"model": "default", "stream": True, "messages": [{"role": "user", "content": "a"}]}
        raw = ""
        async with (
            httpx2.AsyncClient() as http,
            http.stream(
                "POST",
                f"{door.base}/chat/completions",
                headers={"authorization": f"Bearer {API_KEY}"},
                json=body,
            ) as answer,
        ):
            async for text in answer.aiter_text():
                raw += text
                if raw.count(": ping\n\n") == 3:
                    pinged.set()

    assert raw.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_the_model(
    control: AsyncEngine, operations: Operations, tmp_path: Path, stream: bool
) -> None:
    script = tmp_path / "slow.yaml"
    script.write_text("turns: [{text: late, delay_ms: 60000}]")
    async with open_door(control, operations, script=script) as door:
        async with httpx2.AsyncClient() as http:
            asking = asyncio.create_task(
                http.post(
                    f"{door.base}/chat/completions",
                    headers={"authorization": f"Bearer {API_KEY}"},
                    json={
                        "model": "default",
                        "stream": stream,
                        "messages": [{"role": "user", "content": "x"}],
                    },
                )
            )
            await until(lambda: bool(door.model.requests))
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: door.model.ends == ["CancelledError"])


async def test_a_client_that_leaves_in_mid_stream_cancels_the_model(door: Door) -> None:
    forever = asyncio.Event()
    door.model.between = forever.wait
    async with AsyncOpenAI(base_url=door.base, api_key=API_KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "one two"}], stream=True
        )
        async for _ in stream:
            await stream.close()
            break
    await until(lambda: bool(door.model.ends))
    assert door.model.ends == ["CancelledError"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_that_dies_ends_its_answers(
    door: Door, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    made = await door.keys.create("doomed", tenant="door-doomed")
    forever = asyncio.Event()
    door.model.between = forever.wait
    if not stream:
        monkeypatch.setattr(door.model.inner, "_answer", lambda _: forever.wait())
    body = {"model": "default", "stream": stream, "messages": [{"role": "user", "content": "a b"}]}
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {made['key']}"}) as http:
        asking = asyncio.create_task(http.post(f"{door.base}/chat/completions", json=body))
        await until(lambda: bool(door.model.requests))
        await door.keys.revoke(made["id"])
        answer = await asyncio.wait_for(asking, timeout=5.0)

    last = answer.text.split("data: ")[-1]
    assert json.loads(last)["error"]["message"].startswith("the key was revoked")
    assert answer.status_code == (200 if stream else 401)
    assert door.model.ends == ["CancelledError"]
