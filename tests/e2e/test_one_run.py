"""One run through every face: begun as an MCP task, watched by OpenAI's SDK, taken over after kill -9, allowed over MCP, ended once, with one trace."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, Result
from openai import AsyncOpenAI
from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.doors import raw
from tests.doors.live import http_client, serving
from tests.doors.tasks_client import EXTENSION, over_http
from tests.e2e.processes import ServeProcess
from tests.servers.collector import Collector, collecting

KEY = "sk-one-run-through-every-face"
ANSWER = "The note is kept and the report is filed."
CALLS = (
    {"name": "kv_set", "arguments": json.dumps({"key": "note", "value": 1})},
    {"name": "object_put", "arguments": json.dumps({"key": "report", "text": "all is well"})},
)
# What is told of the run by whoever did it: of the first two the worker that was killed.
SPANS = (
    *("chat hesitant", "execute_tool kv_set", "chat hesitant"),
    *("execute_tool object_put", "chat hesitant", "invoke_agent clerk"),
)


class Hesitant:
    """A model that makes one call a turn and then answers; asked for the second one, it says nothing the first time."""

    def __init__(self) -> None:
        self.hesitated = asyncio.Event()
        routes = [
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "hesitant", "object": "model"}]})

    async def _chat(self, request: Request) -> Response:
        messages = (await request.json())["messages"]
        turn = sum(message["role"] == "assistant" for message in messages)
        return StreamingResponse(self._answer(turn), media_type="text/event-stream")

    async def _answer(self, turn: int) -> AsyncGenerator[str]:
        if turn == 1 and not self.hesitated.is_set():
            self.hesitated.set()
            await asyncio.get_running_loop().create_future()
        if turn < len(CALLS):
            call = {"index": 0, "id": f"call_{turn}", "type": "function", "function": CALLS[turn]}
            yield _chunk({"tool_calls": [call]}, None)
            yield _chunk({}, "tool_calls")
        else:
            for word in re.findall(r"\S+\s*", ANSWER):
                yield _chunk({"content": word}, None)
            yield _chunk({}, "stop")
        yield "data: [DONE]\n\n"


def _chunk(delta: dict[str, Any], reason: str | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "created": 1, "model": "hesitant"}
    whole = head | {"object": "chat.completion.chunk", "choices": [choice]}
    return f"data: {json.dumps(whole)}\n\n"


class Started(Result):
    """What a call that became a task is answered with."""

    result_type: Literal["task"] = Field(alias="resultType")
    task: str = Field(alias="taskId")


class Tasks(ClientExtension):
    """Takes tasks as the answers of calls; who asks for one follows it."""

    identifier = EXTENSION

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return (ResultClaim(result_type="task", model=Started, resolve=self._resolve),)

    async def _resolve(self, started: Started, context: ClaimContext) -> CallToolResult:
        raise AssertionError(f"nobody waits for {started.task} of {context.tool_name}")


@asynccontextmanager
async def mcp_client(server: ServeProcess) -> AsyncGenerator[Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        http_client(headers) as http,
        Client(
            streamable_http_client(f"{server.url}/mcp", http_client=http), extensions=[Tasks()]
        ) as client,
    ):
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def begin(server: ServeProcess) -> str:
    """Begin the run as a task, and return its id."""
    async with mcp_client(server) as client:
        await call(
            client,
            "agent_save",
            name="clerk",
            instructions="Keep a note and file a report.",
            tools=["kv_set", "object_put"],
            approve=["object_put"],
        )
        started = await client.session.call_tool(
            "agent_run", {"agent": "clerk", "input": "Go."}, allow_claimed=True
        )
    assert isinstance(started, Started), started
    return started.task


async def watch(
    server: ServeProcess, run: str, after: int = -1, *, until: str | None = None
) -> list[dict[str, Any]]:
    """Follow the run as a response, from the event after number `after`, to the first event of type `until` or its end."""
    seen: list[dict[str, Any]] = []
    async with (
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client,
        asyncio.timeout(120),
    ):
        place: dict[str, Any] = {"starting_after": after} if after >= 0 else {}
        stream = await client.responses.retrieve(run.replace("run_", "resp_"), stream=True, **place)
        async for event in stream:
            seen.append(event.to_dict())
            if event.type == until:
                break
        await stream.close()
    return seen


async def allow(server: ServeProcess, run: str) -> None:
    """Answer over MCP what the run asks."""
    async with mcp_client(server) as client:
        asking = await call(client, "run_get", run=run)
        assert asking["status"] == "input_required", asking
        await call(client, "run_input", run=run, answer={"approved": True})


async def test_one_run_is_begun_watched_killed_allowed_and_ended_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Hesitant()
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        run = await through_every_face(data_dir, model, collector)
        spans = await asyncio.to_thread(collector.wait, lambda spans: len(spans) >= len(SPANS))
    assert {span.trace_id for span in spans} == {run.removeprefix("run_")}
    assert len({span.span_id for span in spans}) == len(spans)
    assert sorted(span.name for span in spans) == sorted(SPANS)
    assert len({span.resource["service.instance.id"] for span in spans}) == 2
    assert not [span for span in spans if span.failed]


async def through_every_face(data_dir: Path, model: Hesitant, collector: Collector) -> str:
    """Return the run; what it did before it was killed was told the collector by then."""
    async with serving(model.app) as upstream:
        settings = {"LLM_URL": f"{upstream}/v1", "API_KEY": KEY}
        first = ServeProcess(data_dir, 0, **settings)
        second: ServeProcess | None = None
        try:
            await asyncio.to_thread(first.wait_ready)
            run = await begin(first)
            told = await watch(first, run, until="response.mcp_call.completed")
            await model.hesitated.wait()
            await asyncio.to_thread(collector.wait, lambda spans: len(spans) >= 2)
            first.kill_group()
            second = ServeProcess(data_dir, 0, **settings)
            await asyncio.to_thread(second.wait_ready)
            told += await watch(second, run, told[-1]["sequence_number"])
            assert told[-1]["response"]["output"][-1]["type"] == "mcp_approval_request"
            await allow(second, run)
            told += await watch(second, run, told[-1]["sequence_number"])
            assert await watch(second, run) == told
            the_stream_is_whole(told)
            await it_ended_once(second, run)
            return run
        finally:
            if second is not None:
                await asyncio.to_thread(second.stop)
            if first.process.poll() is None:
                first.kill_group()


def the_stream_is_whole(told: Sequence[dict[str, Any]]) -> None:
    """See that what three connections told is one stream with every item once."""
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[-1]["type"] == "response.completed"
    note, asked, filed, said = told[-1]["response"]["output"]
    assert [note["type"], note["name"], note["status"]] == ["mcp_call", "kv_set", "completed"]
    assert [asked["type"], asked["name"]] == ["mcp_approval_request", "object_put"]
    assert [filed["name"], filed["status"]] == ["object_put", "completed"]
    assert filed["approval_request_id"] == asked["id"]
    assert said["content"][0]["text"] == ANSWER


async def it_ended_once(server: ServeProcess, run: str) -> None:
    """See the same end as a task, as a run and in its one trace, and what it did done once."""
    async with raw.open_http() as http:
        task = await over_http(http, server.url, KEY).get(run)
    assert task["status"] == "completed"
    assert task["result"]["structuredContent"]["output"] == ANSWER
    async with mcp_client(server) as client:
        trace = await call(client, "run_trace", run=run)
        changes = (await call(client, "changes", limit=1000))["items"]
    kinds = [step["kind"] for step in trace["steps"]]
    assert trace["status"] == "completed"
    assert len(trace["trace_id"]) == 32
    assert trace["next_cursor"] is None
    assert kinds.count("attempt") == trace["attempts"] == 3  # killed, asking, ending
    assert [step["name"] for step in trace["steps"] if step["kind"] == "call"] == [
        "kv_set",
        "object_put",
    ]
    (approval,) = (step for step in trace["steps"] if step["kind"] == "approval")
    assert approval["answer"] == {"approved": True}
    workers = {step["worker"] for step in trace["steps"] if step["kind"] == "attempt"}
    assert len(workers) == 2
    made = [change["uri"] for change in changes if change["verb"] == "write"]
    assert made.count("kv://default/note") == made.count("object://default/report") == 1
