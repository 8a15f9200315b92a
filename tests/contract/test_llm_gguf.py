"""The embedded model in its child process: errors, cancel, crash, and who may reach it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from mcp_server.errors import Unavailable
from mcp_server.llm import UpstreamError
from mcp_server.llm.api_client import ApiClient
from mcp_server.llm.gguf import GgufModel, open_gguf
from mcp_server.llm.gguf_process import usable_threads
from mcp_server.llm.gguf_weights import bundled_weights

LONG = " ".join(f"word{i}" for i in range(400))
PATTERN = {"type": "string", "pattern": "(?=x)[a-z]+"}


@pytest.fixture(scope="module")
async def model(anyio_backend: Any) -> AsyncIterator[GgufModel]:
    async with open_gguf("") as model:
        yield cast("GgufModel", model)


def asking(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


async def busy(model: GgufModel) -> int:
    client = await model._process.client()
    slots = ApiClient(client._base_url.removesuffix("/v1"), client._api_key)
    try:
        listed = cast("list[dict[str, Any]]", await slots.get("/slots"))
        return sum(1 for slot in listed if slot["is_processing"])
    finally:
        await slots.close()


async def until(model: GgufModel, count: int, seconds: float) -> float:
    started = time.monotonic()
    with anyio.fail_after(seconds):
        while await busy(model) != count:
            await anyio.sleep(0.02)
    return time.monotonic() - started


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


async def test_nothing_is_started_before_the_first_request() -> None:
    async with open_gguf("") as model:
        await model.models()
        assert cast("GgufModel", model)._process.pid is None


async def test_a_conversation_that_is_too_long_is_refused(model: GgufModel) -> None:
    request = asking("word " * 3000)
    for answer in (model.complete(request), anext(model.stream(request))):
        with pytest.raises(UpstreamError) as refused:
            await answer
        assert refused.value.status == 400
        assert refused.value.body["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "fields", [{"temperature": "hot"}, {"response_format": {"type": "grammar"}}]
)
async def test_a_wrong_parameter_is_the_callers_mistake(
    model: GgufModel, fields: dict[str, Any]
) -> None:
    with pytest.raises(UpstreamError) as refused:
        await model.complete(asking("hi", **fields))
    assert refused.value.status == 400


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_on_tokens_is_kept(model: GgufModel, limit: str) -> None:
    answer = await model.complete(asking("Tell me a long story.", **{limit: 5}))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


async def test_stop_seed_and_logprobs_reach_the_model(model: GgufModel) -> None:
    request = asking("Count: one, two, three, four", stop=["three"], temperature=0, max_tokens=40)
    assert "three" not in (await model.complete(request))["choices"][0]["message"]["content"]
    request = asking("Name a fruit.", seed=7, temperature=1.0, max_tokens=6, logprobs=True)
    one, two = [(await model.complete(request))["choices"][0] for _ in range(2)]
    assert one["message"] == two["message"]
    assert len(one["logprobs"]["content"]) == 6


async def test_what_the_grammar_cannot_hold_is_simplified(model: GgufModel) -> None:
    tools = [tool("code", type="object", properties={"a": PATTERN}, required=["a"])]
    answer = await model.complete(asking("code x", tools=tools, tool_choice="required"))
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    schema = {"type": "object", "properties": {"a": PATTERN}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = await model.complete(asking("code x", response_format=wanted, max_tokens=60))
    assert answer["choices"][0]["message"]["content"].startswith("{")


async def test_auto_answers_small_talk_and_calls_what_is_asked_for(model: GgufModel) -> None:
    key = {"type": "string", "description": "The key to read."}
    tools = [tool("kv_get", type="object", properties={"key": key}, required=["key"])]
    chat = (await model.complete(asking("Good morning!", tools=tools, max_tokens=4)))["choices"][0]
    assert chat["message"]["content"]
    called = (await model.complete(asking("Read the key color", tools=tools)))["choices"][0]
    assert called["message"]["tool_calls"][0]["function"]["name"] == "kv_get"


async def test_optional_arguments_that_nobody_spoke_of_are_left_out(model: GgufModel) -> None:
    properties = {"key": {"type": "string"}, "namespace": {"type": "string"}}
    tools = [tool("kv_get", type="object", properties=properties, required=["key"])]
    request = asking("What is under color?", tools=tools, tool_choice="required")
    (call,) = (await model.complete(request))["choices"][0]["message"]["tool_calls"]
    assert "namespace" not in call["function"]["arguments"]


async def test_a_function_without_arguments_costs_nothing(model: GgufModel) -> None:
    request = asking("go", tools=[tool("ping", type="object")], tool_choice="required")
    answer = await model.complete(request)
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert answer["usage"]["total_tokens"] == 0


async def test_leaving_a_stream_frees_the_slot_at_once(model: GgufModel) -> None:
    endless = asking("Count.", max_tokens=1000, ignore_eos=True)  # it would stop at once else
    chunks = model.stream(endless)
    for _ in range(4):
        await anext(chunks)
    assert await busy(model) == 1
    await chunks.aclose()
    assert await until(model, 0, 10) < 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancel_while_the_prompt_is_read_frees_the_slot(
    model: GgufModel, stream: bool
) -> None:
    request = asking(f"{stream} {LONG}", max_tokens=500)

    async def read() -> None:
        async with aclosing(model.stream(request)) as chunks:
            async for _ in chunks:
                pass

    task = asyncio.ensure_future(read() if stream else model.complete(request))
    await until(model, 1, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Reading the whole prompt takes more than ten seconds; one batch of it a fraction of one.
    assert await until(model, 0, 60) < 5


async def test_more_requests_than_slots_are_all_answered(model: GgufModel) -> None:
    requests = [asking(f"Say {i}.", max_tokens=3) for i in range(6)]
    answers = await asyncio.gather(*(model.complete(each) for each in requests))
    assert all(each["usage"]["completion_tokens"] == 3 for each in answers)


async def test_nobody_without_the_key_is_answered(model: GgufModel) -> None:
    client = await model._process.client()
    stranger = ApiClient(client._base_url, "sk-guess")
    try:
        for path in ("/models", "/../props", "/../slots"):
            with pytest.raises(UpstreamError) as refused:
                await stranger.get(path)
            assert refused.value.status in {401, 404}
        with pytest.raises(UpstreamError) as refused:
            await stranger.post("/chat/completions", asking("hi"))
        assert refused.value.status == 401
    finally:
        await stranger.close()


async def test_after_a_crash_the_request_fails_and_the_next_is_answered(model: GgufModel) -> None:
    await model.complete(asking("hi", max_tokens=1))
    pid = model._process.pid
    assert pid is not None
    chunks = model.stream(asking("Count from one to a hundred.", max_tokens=1000))
    await anext(chunks)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(Unavailable):
        async for _ in chunks:
            pass
    answer = await model.complete(asking("hi", max_tokens=1))
    assert answer["choices"][0]["message"]["content"]
    assert model._process.pid not in {None, pid}


async def test_a_crash_that_nobody_has_seen_yet_is_not_noticed_by_the_next(
    model: GgufModel,
) -> None:
    await model.complete(asking("hi", max_tokens=1))
    assert model._process.pid is not None
    os.kill(model._process.pid, signal.SIGKILL)
    assert (await model.complete(asking("hi", max_tokens=1)))["choices"]


async def test_a_file_that_cannot_be_loaded_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(200))
    async with open_gguf(str(path)) as model:
        with pytest.raises(Unavailable, match="the embedded model cannot be loaded: "):
            await model.complete(asking("hi"))
        assert [info.healthy for info in await model.models()] == [False]


async def test_closing_ends_the_child_and_what_waits_for_it() -> None:
    async with open_gguf("") as model:
        waiting = asyncio.ensure_future(model.complete(asking("hi")))
        process = cast("GgufModel", model)._process
        await asyncio.sleep(0)
        model.warm()
    with pytest.raises(Unavailable):
        await waiting
    assert process.pid is None


async def test_a_model_of_ones_own_chooses_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "own-model.gguf"
    path.symlink_to(bundled_weights().path)
    tools = [
        tool("kv_get", type="object", properties={"key": {"type": "string"}}, required=["key"]),
        tool("ping", type="object"),
    ]
    async with open_gguf(str(path)) as model:
        assert [info.id for info in await model.models()] == ["own-model"]
        request = asking("Read the key color", tools=tools, max_tokens=4)
        (choice,) = (await model.complete(request))["choices"]
        assert choice["message"].get("tool_calls") or choice["message"]["content"]


PARENT = """
import asyncio, sys
from mcp_server.llm.gguf import open_gguf

async def main():
    async with open_gguf("") as model:
        await model.complete({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
        print(model._process.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_the_child_dies_with_a_parent_that_is_killed_and_leaves_its_stdio_alone() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        mine = {Path(f"/proc/{parent.pid}/fd/{fd}").readlink() for fd in (0, 1, 2)}
        its = {Path(f"/proc/{child}/fd/{fd}").readlink() for fd in (0, 1, 2)}
        assert not mine & its
        parent.kill()
        assert parent.stdout.read() == ""
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


def test_one_core_is_left_for_everything_else() -> None:
    assert 1 <= usable_threads() <= max(1, (os.cpu_count() or 1) - 1)
