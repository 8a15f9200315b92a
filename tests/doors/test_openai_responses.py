"""Responses through OpenAI's own SDK: what is answered, streamed, kept, and gone on from."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.live import BusDoor, Live, open_live, serving
from tests.doors.odd_model import OddModel

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
    "strict": False,
}


@dataclass
class World:
    live: Live
    odd: OddModel
    client: AsyncOpenAI


@pytest.fixture(scope="module")
async def world(anyio_backend: object, scratch: Path) -> AsyncIterator[World]:
    odd = OddModel()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(odd.app))
        urls = ("scripted:", f"{upstream}/v1")
        live = await stack.enter_async_context(open_live(scratch / "responses", llm_url=urls))
        yield World(live, odd, await stack.enter_async_context(connect(live, live.key)))


def connect(live: Live, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0)


async def ask(client: AsyncOpenAI, given: Any = "hello there", **more: Any) -> Any:
    return await client.responses.create(**{"model": "scripted", "input": given} | more)


async def ask_odd(world: World, wanted: dict[str, Any], **more: Any) -> Any:
    world.odd.requests.clear()
    return await ask(world.client, json.dumps(wanted), **{"model": "odd"} | more)


async def take(stream: Any, events: list[Any]) -> None:
    async for event in stream:
        events.append(event)  # noqa: PERF401  what came before a failure counts


async def test_a_response_is_answered_kept_and_deleted(world: World) -> None:
    client = world.client
    answer = await ask(client, metadata={"a": "b"}, temperature=0.5, instructions="Be brief.")

    assert (answer.status, answer.output_text) == ("completed", "hello there")
    assert (answer.metadata, answer.temperature, answer.instructions) == (
        {"a": "b"},
        0.5,
        "Be brief.",
    )
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert await client.responses.retrieve(answer.id) == answer
    (item,) = (await client.responses.input_items.list(answer.id)).data
    assert item.to_dict()["content"] == [{"type": "input_text", "text": "hello there"}]
    await client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(answer.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(answer.id)


async def test_a_stream_ends_in_the_response_that_is_kept(world: World) -> None:
    async with world.client.responses.stream(model="scripted", input="one two three") as stream:
        numbers = [event.sequence_number async for event in stream]
        final = await stream.get_final_response()

    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert final.output_text == "one two three"
    kept = await world.client.responses.retrieve(final.id)
    assert kept.output_text == "one two three"
    assert kept.usage == final.usage


async def test_structured_output_is_parsed(world: World) -> None:
    class City(BaseModel):
        name: str
        capital: bool

    answer = await world.client.responses.parse(model="scripted", input="Paris", text_format=City)

    assert answer.output_parsed == City(name="Paris", capital=False)


async def test_a_chain_goes_on_without_its_instructions(world: World) -> None:
    first = await ask_odd(world, {}, instructions="Sing.")
    second = await ask_odd(world, {"n": 2}, previous_response_id=first.id)

    roles = [message["role"] for message in world.odd.requests[0]["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert (second.previous_response_id, second.instructions) == (first.id, None)
    listed = [item async for item in world.client.responses.input_items.list(second.id, limit=2)]
    assert [item.type for item in listed] == ["message"] * 3
    oldest = await world.client.responses.input_items.list(second.id, order="asc", limit=1)
    assert oldest.data == listed[-1:]
    await world.client.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(world.client, previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"


async def test_a_response_of_another_tenant_is_not_there(world: World) -> None:
    mine = await ask(world.client)
    made = await make_key(world.live, "read", "write", "run", tenant="elsewhere")
    async with connect(world.live, made["key"]) as stranger:
        for call in (stranger.responses.retrieve, stranger.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await call(mine.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(stranger, previous_response_id=mine.id)
        assert caught.value.code == "previous_response_not_found"
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(stranger, [{"type": "item_reference", "id": mine.output[0].id}])
        assert caught.value.param == "input[0].id"


async def test_a_key_for_one_model_goes_on_from_its_own_responses_only(world: World) -> None:
    made = await make_key(world.live, "run:model://scripted", tenant="default")
    others = await ask(world.client)
    async with connect(world.live, made["key"]) as client:
        own = await ask(client)
        assert (await ask(client, previous_response_id=own.id)).status == "completed"
        assert (await client.responses.retrieve(own.id)).id == own.id
        with pytest.raises(openai.PermissionDeniedError):
            await client.responses.retrieve(others.id)
        with pytest.raises(openai.PermissionDeniedError):
            await ask(client, previous_response_id=others.id)


async def test_what_is_not_to_be_stored_is_not(world: World) -> None:
    answer = await ask(world.client, store=False)

    assert answer.store is False
    with pytest.raises(openai.NotFoundError):
        await world.client.responses.retrieve(answer.id)


async def test_a_function_of_the_client_is_handed_over_and_its_output_read(world: World) -> None:
    async with world.client.responses.stream(
        model="scripted", input="Rome", tools=[WEATHER], tool_choice="required"
    ) as stream:
        kinds = [event.type async for event in stream]
        first: Any = await stream.get_final_response()
    (call,) = first.output
    assert (call.type, json.loads(call.arguments)) == ("function_call", {"city": "Rome"})
    assert "response.function_call_arguments.delta" in kinds

    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = await ask(world.client, [output], previous_response_id=first.id, tools=[WEATHER])
    assert second.output_text == "sunny"
    # The same without what is kept: the client sends the whole history.
    history: Any = [{"role": "user", "content": "Rome"}, call.to_dict(), output]
    again = await ask(world.client, history, tools=[WEATHER], store=False)
    assert again.output_text == "sunny"
    with pytest.raises(openai.BadRequestError, match="No tool output found"):
        await ask(world.client, "and?", previous_response_id=first.id, tools=[WEATHER])
    with pytest.raises(openai.BadRequestError, match="No tool call found"):
        await ask(world.client, [output])


async def test_a_custom_tool_gets_its_input_as_text(world: World) -> None:
    tool: Any = {"type": "custom", "name": "patch", "description": "Change a file."}
    first = await ask(world.client, "- a", tools=[tool])
    (call,) = first.output
    assert (call.type, call.input) == ("custom_tool_call", "- a")

    output = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "done"}
    second = await ask(world.client, [output], previous_response_id=first.id, tools=[tool])
    assert second.output_text == "done"


async def test_a_custom_tool_is_streamed_with_its_input_as_text(world: World) -> None:
    tool: Any = {"type": "custom", "name": "patch", "description": "Change a file."}
    stream = await ask(world.client, "- a\n+ b", tools=[tool], stream=True)
    events = [event async for event in stream]
    said = [each for each in events if each.type.startswith("response.custom_tool_call_input.")]
    assert "".join(each.delta for each in said if each.type.endswith("delta")) == "- a\n+ b"
    assert (said[-1].type, said[-1].input) == ("response.custom_tool_call_input.done", "- a\n+ b")
    (call,) = events[-1].response.output
    assert (call.type, call.name, call.input) == ("custom_tool_call", "patch", "- a\n+ b")
    (added,) = [each for each in events if each.type == "response.output_item.added"]
    assert (added.item.type, added.item.input) == ("custom_tool_call", "")


async def test_an_item_is_referred_to_by_its_id(world: World) -> None:
    first = await ask(world.client)
    given = [{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "x"}]
    second = await ask(world.client, given)

    items = (await world.client.responses.input_items.list(second.id, order="asc")).data
    assert [item.id for item in items][:1] == [first.output[0].id]


async def test_parts_reach_the_model_in_its_own_form(world: World) -> None:
    parts = [
        {"type": "input_text", "text": "{}"},
        {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "low"},
        {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="},
    ]
    world.odd.requests.clear()
    await ask(world.client, [{"role": "user", "content": parts}], model="odd")

    assert world.odd.requests[0]["messages"][0]["content"] == [
        {"type": "text", "text": "{}"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}},
        {
            "type": "file",
            "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGk="},
        },
    ]


async def test_a_stored_file_reaches_the_model_as_text(world: World) -> None:
    bus = BusDoor(world.live)
    put = {"bucket": "files", "key": "file-note", "text": "noon", "content_type": "text/plain"}
    assert not (await bus.call("object_put", put)).is_error
    parts = [
        {"type": "input_text", "text": "{}"},
        {"type": "input_file", "file_id": "file-note"},
    ]
    world.odd.requests.clear()
    await ask(world.client, [{"role": "user", "content": parts}], model="odd")
    assert "noon" in world.odd.requests[0]["messages"][0]["content"][1]["text"]
    parts[1] = {"type": "input_file", "file_id": "file-absent"}
    with pytest.raises(openai.BadRequestError):
        await ask(world.client, [{"role": "user", "content": parts}], model="odd")


async def test_what_the_model_thinks_is_an_item_of_its_own(world: World) -> None:
    deltas = [{"reasoning_content": "Hm"}, {"reasoning_content": "m."}, {"content": "Yes."}]
    answer = await ask_odd(world, {"deltas": deltas}, reasoning={"effort": "low"})

    thought, said = answer.output
    assert (thought.type, thought.content[0].text) == ("reasoning", "Hmm.")
    assert said.content[0].text == "Yes."
    assert world.odd.requests[0]["reasoning_effort"] == "low"
    again = await ask_odd(world, {}, previous_response_id=answer.id)
    assert again.output_text == "yes"


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
async def test_an_answer_that_was_cut_is_incomplete(world: World, finish: str, reason: str) -> None:
    answer = await ask_odd(world, {"finish": finish}, max_output_tokens=16)

    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", reason)
    assert answer.output[0].status == "incomplete"
    assert world.odd.requests[0]["max_completion_tokens"] == 16


async def test_logprobs_are_told_to_who_asks_for_them(world: World) -> None:
    wanted = {"logprobs": True}
    include = ["message.output_text.logprobs"]
    answer = await ask_odd(world, wanted, include=include, top_logprobs=2)
    plain = await ask_odd(world, wanted)

    (token,) = answer.output[0].content[0].logprobs
    assert (token.token, token.logprob) == ("a", -0.5)
    assert plain.output[0].content[0].logprobs == []


async def test_a_model_that_refuses_is_an_error_of_http(world: World) -> None:
    refuse = {"refuse": {"message": "no", "type": "invalid_request_error", "status": 400}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="no"):
            await ask_odd(world, refuse, stream=stream)
    with pytest.raises(openai.NotFoundError) as caught:
        await ask(world.client, model="nothing")
    assert caught.value.code == "model_not_found"


async def test_a_stream_ends_with_its_last_event(world: World) -> None:
    body = {"model": "scripted", "input": "x", "stream": True}
    async with raw.open_http() as http:
        url, headers = f"{world.live.url}/v1/responses", world.live.headers
        reply = await raw.send(http, "POST", url, json=body, headers=headers)

    *_, last = reply.body.strip().split("\n\n")
    name, data = last.split("\n")
    assert name == "event: response.completed"
    assert json.loads(data.removeprefix("data: "))["type"] == "response.completed"


async def test_a_stream_that_breaks_off_ends_in_an_error_and_is_kept_as_failed(
    world: World,
) -> None:
    stream = await ask_odd(world, {"break": True}, stream=True)
    events: list[Any] = []
    with pytest.raises(openai.APIError):
        await take(stream, events)

    assert "response.output_text.delta" in [event.type for event in events]
    kept: Any = await world.client.responses.retrieve(events[0].response.id)
    assert (kept.status, kept.error.code) == ("failed", "server_error")
    assert kept.output[0].status == "incomplete"


async def test_an_agent_answers_with_its_own_tools(world: World) -> None:
    saved = {"name": "clerk", "instructions": "Look it up.", "tools": ["model_list"]}
    assert not (await BusDoor(world.live).call("agent_save", saved)).is_error
    async with world.client.responses.stream(model="agent/clerk", input="which?") as stream:
        final = await stream.get_final_response()

    assert [item.type for item in final.output] == ["message"]
    assert '"scripted"' in final.output_text
    runs = (await BusDoor(world.live).call("run_list", {"agent": "clerk"})).structured["items"]
    assert [run["status"] for run in runs] == ["completed"]
    with pytest.raises(openai.NotFoundError):
        await ask(world.client, model="agent/nobody")
    with pytest.raises(openai.BadRequestError):
        await ask(world.client, model="agent/clerk", tools=[WEATHER])


async def test_what_is_too_long_is_cut_only_if_asked(world: World) -> None:
    first = await ask_odd(world, {})
    second = await ask_odd(world, {}, previous_response_id=first.id)
    short = {"most_messages": 3}
    with pytest.raises(openai.BadRequestError) as caught:
        await ask_odd(world, short, previous_response_id=second.id)
    assert caught.value.code == "context_length_exceeded"

    answer = await ask_odd(world, short, previous_response_id=second.id, truncation="auto")
    assert answer.output_text == "yes"
    assert [len(request["messages"]) for request in world.odd.requests] == [5, 3]


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "computer"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"include": ["everything"]}, "include[0]", "invalid_value"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": 7}, "input", "invalid_type"),
        ({"input": []}, "input", "missing_required_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"max_tool_calls": 0}, "max_tool_calls", "invalid_value"),
        (
            {"previous_response_id": "resp_1", "conversation": "conv_1"},
            "previous_response_id",
            "mutually_exclusive_parameters",
        ),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(
    world: World, more: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(world.client, extra_body=more)

    assert (caught.value.param, caught.value.code) == (param, code)


async def test_the_input_is_counted(world: World) -> None:
    count = world.client.responses.input_tokens.count
    short = await count(model="scripted", input="hello")
    long = await count(model="scripted", input="hello " * 50, tools=[WEATHER])
    assert 0 < short.input_tokens < long.input_tokens
