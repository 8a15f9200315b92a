"""Fields of a chat request: what is honoured, passed on, echoed, translated or refused by name."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.doors.openai_door import Door

SAID: Any = [{"role": "user", "content": "one two three"}]
RUN: Any = {"type": "custom", "custom": {"name": "run", "description": "Runs code."}}
OLD: Any = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


async def ask(client: AsyncOpenAI, **more: Any) -> Any:
    request: Any = {"model": "default", "messages": SAID}
    return await client.chat.completions.create(**request | more)


@pytest.mark.parametrize("stream", [False, True])
async def test_several_choices_each_have_their_index(client: AsyncOpenAI, stream: bool) -> None:
    answer = await ask(client, n=3, stream=stream)
    said = dict.fromkeys(range(3), "")
    ends: list[int] = []
    if stream:
        async for chunk in answer:
            for choice in chunk.choices:
                said[choice.index] += choice.delta.content or ""
                ends += [choice.index] if choice.finish_reason else []
    else:
        said = {choice.index: choice.message.content for choice in answer.choices}
        ends = [choice.index for choice in answer.choices if choice.finish_reason == "stop"]
        assert answer.usage.completion_tokens == 9
        assert answer.usage.prompt_tokens == 3

    assert said == dict.fromkeys(range(3), "one two three")
    assert ends == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_come_for_each_token(client: AsyncOpenAI, stream: bool) -> None:
    answer = await ask(client, logprobs=True, top_logprobs=1, stream=stream)
    if stream:
        choices = [choice async for chunk in answer for choice in chunk.choices]
    else:
        choices = answer.choices
    tokens = [token for each in choices if each.logprobs for token in each.logprobs.content]

    assert [token.token for token in tokens] == ["one", " two", " three"]
    assert all(len(token.top_logprobs) == 1 for token in tokens)


async def test_an_answer_ends_before_a_stop_and_at_its_limit(client: AsyncOpenAI) -> None:
    stopped = await ask(client, stop=["three", "x"])
    cut = await ask(client, max_completion_tokens=2)

    assert stopped.choices[0].message.content == "one two "
    assert stopped.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.content == "one two"
    assert cut.choices[0].finish_reason == "length"


async def test_what_only_the_model_understands_reaches_it(client: AsyncOpenAI, door: Door) -> None:
    given: dict[str, Any] = {
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"50256": -100},
        "reasoning_effort": "low",
        "verbosity": "high",
        "prediction": {"type": "content", "content": "one"},
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "top_p": 0.5,
        "safety_identifier": "somebody",
        "messages": [{"role": "developer", "content": "Be brief."}, *SAID],
    }
    await ask(client, **given)

    asked = door.model.requests[0]
    assert {name: asked[name] for name in given} == given


@pytest.mark.parametrize("stream", [False, True])
async def test_the_service_tier_is_told_back(client: AsyncOpenAI, stream: bool) -> None:
    answer = await ask(client, service_tier="auto", stream=stream)
    if stream:
        assert {chunk.service_tier async for chunk in answer} == {"default"}
    else:
        assert answer.service_tier == "default"
        assert (await ask(client)).service_tier is None


async def test_every_chunk_tells_that_its_usage_comes_later(client: AsyncOpenAI) -> None:
    stream = await ask(client, stream=True, stream_options={"include_usage": True})
    chunks = [chunk.model_dump(exclude_unset=True) async for chunk in stream]

    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["usage"]["total_tokens"] == 6


@pytest.mark.parametrize("choice", ["auto", {"type": "custom", "custom": {"name": "run"}}])
async def test_a_custom_tool_is_called_with_a_text(client: AsyncOpenAI, choice: Any) -> None:
    answer = await ask(client, tools=[RUN], tool_choice=choice)

    (call,) = answer.choices[0].message.tool_calls
    assert call.type == "custom"
    assert (call.custom.name, call.custom.input) == ("run", "one two three")
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_a_custom_call_is_streamed_under_one_index(client: AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await ask(client, tools=[RUN], stream=True)]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert {call.index for call in calls} == {0}
    told = [call.to_dict() for call in calls]
    assert [call["type"] for call in told if "type" in call] == ["custom"]
    assert "".join(call["custom"].get("input", "") for call in told) == "one two three"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["tool_calls"]


async def test_allowed_tools_narrow_what_may_be_called(client: AsyncOpenAI) -> None:
    tools = [{"type": "function", "function": {**OLD, "name": name}} for name in ("a", "b")]
    chosen = {"type": "function", "function": {"name": "b"}}
    allowed = {"mode": "required", "tools": [chosen]}
    answer = await ask(
        client, tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}
    )

    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["b"]


async def test_allowed_tools_may_be_those_of_the_server(client: AsyncOpenAI, door: Door) -> None:
    server = {"type": "mcp", "server_label": "isthmus"}
    choice: Any = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{**server, "name": "model_list"}]},
    }
    answer = await ask(client, tools=[server], tool_choice=choice)

    assert [call["name"] for call in answer.model_extra["isthmus"]["tool_calls"]] == ["model_list"]
    function = {"type": "function", "function": {"name": "model_list"}}
    asked = door.model.requests[0]["tool_choice"]
    assert asked["allowed_tools"]["tools"] == [function]


async def test_the_old_form_gets_its_answer_in_the_old_form(
    client: AsyncOpenAI, door: Door
) -> None:
    first = await ask(client, functions=[OLD], function_call="auto")
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "function_call"
    assert message.tool_calls is None
    assert (message.function_call.name, message.function_call.arguments) == (
        "weather",
        '{"city": "one two three"}',
    )

    messages = [
        *SAID,
        message.model_dump(exclude_none=True),
        {"role": "function", "name": "weather", "content": "snow"},
    ]
    second = await ask(client, functions=[OLD], messages=messages)
    assert second.choices[0].message.content == "snow"
    asked = door.model.requests[1]
    assert asked["messages"][-1]["tool_call_id"] == asked["messages"][1]["tool_calls"][0]["id"]
    assert "functions" not in asked


async def test_the_old_form_streams(client: AsyncOpenAI) -> None:
    stream = await ask(client, functions=[OLD], function_call={"name": "weather"}, stream=True)
    choices = [choice async for chunk in stream for choice in chunk.choices]
    pieces = [each.delta.function_call for each in choices if each.delta.function_call]

    assert not any(each.delta.tool_calls for each in choices)
    assert "".join(piece.name or "" for piece in pieces) == "weather"
    assert "".join(piece.arguments or "" for piece in pieces) == '{"city": "one two three"}'
    assert choices[-1].finish_reason == "function_call"


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "speech": ({"modalities": ["text", "audio"]}, "modalities[1]", "unsupported_value"),
    "a voice": ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", "unsupported_value"),
    "tools twice": ({"tools": [RUN], "functions": [OLD]}, "functions", "unsupported_value"),
    "a long value": ({"metadata": {"a": "x" * 513}}, "metadata.a", "invalid_value"),
    "a long name": ({"metadata": {"a" * 65: "x"}}, "metadata." + "a" * 65, "invalid_value"),
    "two limits": (
        {"max_tokens": 1, "max_completion_tokens": 2},
        "max_tokens",
        "invalid_value",
    ),
    "alternatives alone": ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    "five stops": ({"stop": list("abcde")}, "stop", "invalid_value"),
    "an effort": ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
    "a tier": ({"service_tier": "gold"}, "service_tier", "invalid_value"),
    "a bias": ({"logit_bias": {"cat": 1}}, "logit_bias", "invalid_value"),
    "a choice of a type": ({"tool_choice": {"type": "x"}}, "tool_choice.type", "unsupported_value"),
    "an allowed tool": (
        {
            "tools": [RUN],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "custom", "custom": {"name": "gone"}}],
                },
            },
        },
        "tool_choice.allowed_tools.tools[0].custom.name",
        "invalid_value",
    ),
    "an old choice": (
        {"functions": [OLD], "function_call": {"name": "gone"}},
        "function_call.name",
        "invalid_value",
    ),
    "a file twice": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "file", "file": {"file_id": "a", "file_data": "b"}}],
                }
            ]
        },
        "messages[0].content[0].file",
        "invalid_value",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_is_refused_by_name(
    client: AsyncOpenAI, door: Door, case: str
) -> None:
    more, param, code = REFUSED[case]
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, **more)

    assert (caught.value.param, caught.value.code) == (param, code)
    assert door.model.requests == []
