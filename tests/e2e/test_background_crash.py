"""kill -9 of the process that makes a response in the background: another one goes on with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.doors.live import ClientDoor, http_client, serving
from tests.doors.odd_model import OddModel
from tests.e2e.processes import ServeProcess

KEY = "sk-background-crash-test-key"


class Hesitant:
    """A model that stops in the middle of its first answer, and answers whoever asks again."""

    def __init__(self) -> None:
        self.asked = 0
        routes = [
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "hesitant", "object": "model"}]})

    async def _chat(self, _: Request) -> Response:
        self.asked += 1
        events = self._answer(hesitate=self.asked == 1)
        return StreamingResponse(events, media_type="text/event-stream")

    async def _answer(self, *, hesitate: bool) -> AsyncGenerator[str]:
        for word in ("one", " two", " three"):
            yield _chunk({"content": word}, None)
        if hesitate:
            await asyncio.get_running_loop().create_future()
        yield _chunk({"content": " four"}, None)
        yield _chunk({}, "stop")
        yield "data: [DONE]\n\n"


def _chunk(delta: dict[str, Any], reason: str | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "created": 1, "model": "hesitant"}
    return (
        f"data: {json.dumps(head | {'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
    )


async def test_a_killed_process_leaves_a_response_that_another_one_ends(data_dir: Path) -> None:
    model = Hesitant()
    async with serving(model.app) as upstream:
        settings = {"LLM_URL": f"{upstream}/v1", "API_KEY": KEY}
        first = ServeProcess(data_dir, 0, **settings)
        second: ServeProcess | None = None
        try:
            await asyncio.to_thread(first.wait_ready)
            seen = await see_the_beginning(first)
            second = ServeProcess(data_dir, 0, **settings)
            await asyncio.to_thread(second.wait_ready)
            first.kill_group()
            await see_the_rest(second, seen)
        finally:
            if second is not None:
                await asyncio.to_thread(second.stop)
            if first.process.poll() is None:
                first.kill_group()
    assert model.asked == 2


async def see_the_beginning(server: ServeProcess) -> list[Any]:
    seen: list[Any] = []
    async with connect(server) as client, asyncio.timeout(30):
        stream = await client.responses.create(
            model="default", input="Count.", background=True, stream=True
        )
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta" and event.delta.endswith("three"):
                break
        await stream.close()
    return seen


async def see_the_rest(server: ServeProcess, seen: list[Any]) -> None:
    response, last = seen[0].response.id, seen[-1].sequence_number
    async with connect(server) as client, asyncio.timeout(90):
        rest = [
            event
            async for event in await client.responses.retrieve(
                response, stream=True, starting_after=last
            )
        ]
        done: Any = await client.responses.retrieve(response)
    numbers = [event.sequence_number for event in rest]
    assert numbers == list(range(last + 1, last + 1 + len(rest)))
    last_event: Any = rest[-1]
    assert last_event.type == "response.completed"
    assert [(item.status, item.content[0].text) for item in done.output] == [
        ("incomplete", "one two three"),
        ("completed", "one two three four"),
    ]
    assert last_event.response == done


ASKS: Any = {"type": "mcp", "server_label": "isthmus", "require_approval": "always"}


async def test_what_a_killed_process_asked_is_answered_and_done_by_another_one(
    data_dir: Path,
) -> None:
    made = [{"tool": "kv_set", "arguments": {"key": "kept", "value": 1}}]
    async with serving(OddModel().app) as upstream:
        settings = {"LLM_URL": f"{upstream}/v1", "API_KEY": KEY}
        first = ServeProcess(data_dir, 0, **settings)
        second: ServeProcess | None = None
        try:
            await asyncio.to_thread(first.wait_ready)
            async with connect(first) as client:
                asked = await client.responses.create(
                    model="odd",
                    input=json.dumps({"steps": made, "say": "Kept."}),
                    background=True,
                    tools=[ASKS],
                )
                assert await until_ended(client, asked.id) == "mcp_approval_request"
            first.kill_group()
            second = ServeProcess(data_dir, 0, **settings)
            await asyncio.to_thread(second.wait_ready)
            run = asked.id.replace("resp_", "run_")
            headers = {"Authorization": f"Bearer {KEY}"}
            async with (
                http_client(headers) as http,
                Client(streamable_http_client(f"{second.url}/mcp", http_client=http)) as mcp,
                connect(second) as client,
            ):
                door = ClientDoor(mcp)
                answer = {"run": run, "answer": {"approved": True}}
                assert not (await door.call("run_input", answer)).is_error
                assert await until_ended(client, asked.id) == "message"
                kept = await door.call("kv_get", {"key": "kept"})
                assert kept.structured["value"] == 1
        finally:
            if second is not None:
                await asyncio.to_thread(second.stop)
            if first.process.poll() is None:
                first.kill_group()


async def until_ended(client: AsyncOpenAI, response: str) -> str:
    """Wait for the end of a response, or for its question; gives the type of its last item."""
    async with asyncio.timeout(60):
        while True:
            found = await client.responses.retrieve(response)
            if found.status == "completed":
                return found.output[-1].type
            assert found.status in {"queued", "in_progress"}, found
            await asyncio.sleep(0.05)


def connect(server: ServeProcess) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
