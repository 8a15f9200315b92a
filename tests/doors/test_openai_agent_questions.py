"""What an agent asks of people, at OpenAI's doors: function calls that the SDK answers, and that go on with the run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from openai import AsyncOpenAI

from mcp_server.auth.principal import OWNER
from tests.doors.fixtures import make_key
from tests.doors.live import ClientDoor, Live, http_client, open_live, serving
from tests.doors.odd_model import OddModel

MODEL = "agent/asker"
NUMBER: Any = {
    "message": "How many?",
    "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
}


def steps(*made: tuple[str, dict[str, Any]], say: str = "Done.") -> str:
    listed = [{"tool": tool, "arguments": arguments} for tool, arguments in made]
    return json.dumps({"steps": listed, "say": say})


ASKS = steps(("ask_person", NUMBER))


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(OddModel().app))
        opened = open_live(scratch / "asking", llm_url=(f"{upstream}/v1",))
        live = await stack.enter_async_context(opened)
        await live.runtime.services.agents.save(
            *(OWNER, "asker"),
            instructions="x",
            model="odd",
            tools=["ask_person", "kv_set"],
            approve=["kv_set"],
        )
        yield live


def connect(live: Live, key: str | None = None) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key or live.key, max_retries=0)


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with connect(live) as client:
        yield client


@pytest.fixture
async def mcp(live: Live) -> AsyncIterator[ClientDoor]:
    async with (
        http_client(live.headers) as http,
        Client(streamable_http_client(f"{live.url}/mcp", http_client=http)) as opened,
    ):
        yield ClientDoor(opened)


def run_of(call: str) -> str:
    return f"run_{call.removeprefix('call_')[:32]}"


async def results(mcp: ClientDoor, run: str) -> list[Any]:
    told = (await mcp.call("run_events", {"run": run, "limit": 1000})).structured["items"]
    return [event["text"] for event in told if event["type"] == "tool_finished"]


def output(call: str, text: Any) -> Any:
    return [{"type": "function_call_output", "call_id": call, "output": text}]


async def question(client: AsyncOpenAI, given: str = ASKS) -> tuple[Any, Any]:
    """Ask the agent, and return its response with the call that this ends in."""
    asked: Any = await client.responses.create(model=MODEL, input=given)
    assert asked.status == "completed"
    call = asked.output[-1]
    assert (call.type, call.name) == ("function_call", "ask_person")
    return asked, call


async def test_a_question_in_a_response_is_a_function_call_whose_output_goes_on_with_the_run(
    client: AsyncOpenAI, mcp: ClientDoor
) -> None:
    asked, call = await question(client)
    assert json.loads(call.arguments) == NUMBER
    follow: Any = {"model": MODEL, "previous_response_id": asked.id}
    for wrong in ("many", '{"n": "many"}', '"\\ud800"', "[" * 200 + "]" * 200):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(**follow, input=output(call.call_id, wrong))
        assert caught.value.param == "input[0].output"
    done: Any = await client.responses.create(**follow, input=output(call.call_id, '{"n": 3}'))
    assert (done.status, done.output_text) == ("completed", "Done.")
    assert [json.loads(text) for text in await results(mcp, run_of(call.call_id))] == [
        {"answer": {"n": 3}}
    ]
    for again in ('{"n": 3}', '{"n": 4}'):
        with pytest.raises(openai.ConflictError, match="first answer"):
            await client.responses.create(**follow, input=output(call.call_id, again))
    later: Any = await client.responses.create(
        model=MODEL, previous_response_id=done.id, input=steps(say="More.")
    )
    assert later.output_text == "More."


async def test_a_question_is_streamed_and_answered_in_a_stream(client: AsyncOpenAI) -> None:
    stream: Any = await client.responses.create(model=MODEL, input=ASKS, stream=True)
    events: list[Any] = [event async for event in stream]
    (call,) = events[-1].response.output
    kinds = [event.type for event in events]
    assert "response.function_call_arguments.done" in kinds
    assert kinds[-1] == "response.completed"
    stream = await client.responses.create(
        model=MODEL,
        input=[
            call.model_dump(exclude_none=True),
            *output(call.call_id, [{"type": "input_text", "text": '{"n":1}'}]),
        ],
        stream=True,
    )
    last: Any = [event async for event in stream][-1]
    assert (last.type, last.response.output_text) == ("response.completed", "Done.")


async def test_what_an_agent_asks_in_the_background_is_answered_at_the_run_s_own_response(
    client: AsyncOpenAI, mcp: ClientDoor
) -> None:
    queued: Any = await client.responses.create(model=MODEL, input=ASKS, background=True)
    shown = await settled(client, queued.id)
    (call,) = shown.output
    assert (call.type, call.name) == ("function_call", "ask_person")
    again: Any = await client.responses.retrieve(queued.id)
    assert again.output == shown.output
    follow: Any = {"model": MODEL, "previous_response_id": queued.id}
    done: Any = await client.responses.create(**follow, input=output(call.call_id, '{"n": 7}'))
    assert done.output_text == "Done."
    over = await settled(client, queued.id)
    assert (over.output_text, over.output[0].call_id) == ("Done.", call.call_id)


async def test_a_question_that_was_answered_over_mcp_is_over_for_the_sdk(
    client: AsyncOpenAI, mcp: ClientDoor
) -> None:
    asked, call = await question(client)
    run = run_of(call.call_id)
    await mcp.call("run_input", {"run": run, "answer": {"n": 1}})
    with pytest.raises(openai.ConflictError, match="first answer"):
        await client.responses.create(
            model=MODEL, previous_response_id=asked.id, input=output(call.call_id, '{"n": 2}')
        )
    with pytest.raises(openai.ConflictError, match="first answer"):
        await say(client, ASKS, call.model_dump(), '{"n": 2}')


async def test_an_output_that_is_no_answer_of_its_own_is_refused(
    client: AsyncOpenAI, live: Live
) -> None:
    asked, call = await question(client)
    answer = output(call.call_id, '{"n": 1}')
    follow: Any = {"model": MODEL, "previous_response_id": asked.id}
    user = {"role": "user", "content": "x"}
    unknown = output(f"call_{'0' * 48}", "1")
    stranger = await make_key(live, tenant="strangers")
    async with connect(live, stranger["key"]) as foreign:
        for who, given, more, param in (
            (client, [*answer, user], {}, "input"),
            (client, [user, *answer], {}, "input"),
            (client, unknown, {}, "input[0].call_id"),
            (client, answer, {"model": "agent/other"}, "model"),
            (foreign, answer, {"previous_response_id": None}, "input[0].call_id"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                await who.responses.create(**follow | more, input=given)
            assert caught.value.param == param
    done: Any = await client.responses.create(**follow, input=answer)
    assert done.output_text == "Done."


async def test_a_chat_answers_a_question_and_an_approval_by_tool_messages(
    client: AsyncOpenAI, mcp: ClientDoor
) -> None:
    given = steps(
        ("ask_person", {"message": "Which word?", "schema": {"type": "string"}}),
        ("ask_person", {"message": "Any wish?"}),
        ("kv_set", {"key": "chat", "value": 1}),
        ("kv_set", {"key": "refused", "value": 1}),
        say="All done.",
    )
    first: Any = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": given}]
    )
    call = asked_in(first)
    assert call.function.name == "ask_person"
    assert json.loads(call.function.arguments)["message"] == "Which word?"
    second = await say(client, given, call, "42")
    third = await say(client, given, asked_in(second), '{"not": "parsed"}')
    allowed = asked_in(third)
    asks = json.loads(allowed.function.arguments)
    assert (allowed.function.name, asks["call"]["name"]) == ("approve_call", "kv_set")
    with pytest.raises(openai.BadRequestError) as caught:
        await say(client, given, allowed, "yes")
    assert caught.value.param == "messages[2].content"
    fourth = await say(client, given, allowed, '{"approved": true}')
    refused = asked_in(fourth)
    last = await say(client, given, refused, '{"approved": false, "reason": "enough"}')
    choice = last.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("stop", "All done.")
    assert len({run_of(each.id) for each in (call, allowed, refused)}) == 1
    word, wish, written, not_written = await results(mcp, run_of(call.id))
    assert [json.loads(text)["answer"] for text in (word, wish)] == ["42", '{"not": "parsed"}']
    assert not written.startswith("forbidden: ")
    assert not_written.startswith("forbidden: the call was refused: enough")
    with pytest.raises(openai.ConflictError, match="first answer"):
        await say(client, given, allowed, '{"approved": true}')


async def test_a_chat_with_the_whole_history_begins_a_run_of_its_own(client: AsyncOpenAI) -> None:
    first: Any = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": ASKS}]
    )
    call = asked_in(first)
    done = await say(client, ASKS, call, '{"n": 1}')
    assert done.choices[0].message.content == "Done."
    history: Any = [
        {"role": "user", "content": ASKS},
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"n": 1}'},
        done.choices[0].message.model_dump(exclude_none=True),
        {"role": "user", "content": steps(say="Next.")},
    ]
    more: Any = await client.chat.completions.create(model=MODEL, messages=history)
    assert more.choices[0].message.content == "Next."
    assert more.isthmus["run"] != run_of(call.id)


async def test_a_chat_is_asked_and_answers_in_streams(client: AsyncOpenAI) -> None:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    asked = await streamed(
        await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": ASKS}], **options
        )
    )
    (call,) = asked["calls"]
    assert (call["function"]["name"], asked["finish"]) == ("ask_person", "tool_calls")
    assert asked["usage"].total_tokens == 5
    done = await streamed(await say(client, ASKS, call, '{"n": 1}', **options))
    assert (done["text"], done["finish"], done["usage"].total_tokens) == ("Done.", "stop", 5)


async def test_a_chat_of_another_agent_or_tenant_answers_nothing(
    client: AsyncOpenAI, live: Live
) -> None:
    first: Any = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": ASKS}]
    )
    call = asked_in(first)
    stranger = await make_key(live, tenant="strangers")
    async with connect(live, stranger["key"]) as foreign:
        with pytest.raises(openai.BadRequestError, match="was not asked"):
            await say(foreign, ASKS, call, '{"n": 1}')
    with pytest.raises(openai.BadRequestError) as caught:
        await say(client, ASKS, call, '{"n": 1}', model="agent/other")
    assert caught.value.param == "model"
    assert (await say(client, ASKS, call, '{"n": 1}')).choices[0].message.content == "Done."


def asked_in(completion: Any) -> Any:
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls", choice
    (call,) = choice.message.tool_calls
    return call


async def say(client: AsyncOpenAI, given: str, call: Any, text: str, **more: Any) -> Any:
    """Answer the call that a chat ended in."""
    told = call if isinstance(call, dict) else call.model_dump()
    name = told.get("call_id") or told["id"]
    function = told.get("function") or {"name": told["name"], "arguments": told["arguments"]}
    made = {"id": name, "type": "function", "function": function}
    messages: Any = [
        {"role": "user", "content": given},
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": name, "content": text},
    ]
    fields: Any = {"model": MODEL} | more
    return await client.chat.completions.create(messages=messages, **fields)


async def streamed(stream: Any) -> dict[str, Any]:
    """Read a stream of one choice whole."""
    told: dict[str, Any] = {"text": "", "calls": [], "finish": None, "usage": None}
    async for chunk in stream:
        told["usage"] = chunk.usage or told["usage"]
        for choice in chunk.choices:
            told["text"] += choice.delta.content or ""
            told["finish"] = choice.finish_reason or told["finish"]
            for piece in choice.delta.tool_calls or ():
                if piece.id:
                    told["calls"].append(piece.model_dump())
                else:
                    told["calls"][-1]["function"]["arguments"] += piece.function.arguments
    return told


async def settled(client: AsyncOpenAI, response: str) -> Any:
    async with asyncio.timeout(30):
        while (found := await client.responses.retrieve(response)).status in {
            "queued",
            "in_progress",
        }:
            await asyncio.sleep(0.02)
    return found
