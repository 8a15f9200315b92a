"""Chats in which the model calls tools of this server: the three opt-ins, one answer, nothing leaks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.operation import Operations
from mcp_server.plugins import Plugins, ToolDeclaration, load_plugins
from openai_facade.facade import servers_for_models
from tests.doors.openai_door import API_KEY, Door, connect, open_door, until

ISTHMUS: Any = {"type": "mcp", "server_label": "isthmus"}


def only(*names: str) -> dict[str, Any]:
    return {**ISTHMUS, "allowed_tools": list(names), "require_approval": "never"}


def with_tool(function: Any, name: str, *, read_only: bool = False) -> Plugins:
    plugins = load_plugins()
    plugins.tools.append(ToolDeclaration(function, name, "run", read_only, True, False, None))
    return plugins


async def ask(client: AsyncOpenAI, **more: Any) -> Any:
    request: Any = {"model": "default", "messages": [{"role": "user", "content": "greeting"}]}
    return await client.chat.completions.create(**request | more)


OPT_INS: dict[str, dict[str, Any]] = {
    "tools": {"tools": [ISTHMUS]},
    "metadata": {"metadata": {"mcp_servers": "isthmus"}},
    "default": {},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("opt_in", OPT_INS)
async def test_every_opt_in_gives_the_model_the_tools(
    control: AsyncEngine, operations: Operations, opt_in: str, stream: bool
) -> None:
    every = servers_for_models(["default"] if opt_in == "default" else [], "isthmus")
    async with (
        open_door(control, operations, default_mcp_servers=every) as door,
        connect(door) as client,
    ):
        forced: Any = {"type": "function", "function": {"name": "model_list"}}
        answer = await ask(client, **OPT_INS[opt_in], tool_choice=forced, stream=stream)
        if stream:
            text = "".join([c.choices[0].delta.content or "" async for c in answer])
        else:
            text = answer.choices[0].message.content

        assert json.loads(text)["items"][0]["id"] == "scripted"
        offered = {tool["function"]["name"] for tool in door.model.requests[0]["tools"]}
        assert {"kv_get", "kv_set", "model_list"} <= offered
        assert "metadata" not in door.model.requests[0]


async def test_nothing_is_given_to_a_chat_that_did_not_ask(door: Door) -> None:
    async with connect(door) as client:
        await ask(client)
        await ask(client, metadata={"mcp_servers": " "})

    assert [request.get("tools") for request in door.model.requests] == [None, None]


async def test_an_empty_label_list_refuses_the_default(
    control: AsyncEngine, operations: Operations
) -> None:
    every = servers_for_models(["*"], "isthmus")
    async with (
        open_door(control, operations, default_mcp_servers=every) as door,
        connect(door) as client,
    ):
        await ask(client, metadata={"mcp_servers": "", "trace": "7"})

        assert "tools" not in door.model.requests[0]


async def test_a_stream_is_one_message_without_inner_turns(door: Door) -> None:
    async with connect(door) as client:
        stream = await ask(
            client,
            tools=[only("model_list")],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

    said = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert len(door.model.requests) == 2
    assert [choice.delta.role for choice in said if choice.delta.role] == ["assistant"]
    assert [choice.finish_reason for choice in said if choice.finish_reason] == ["stop"]
    assert not any(choice.delta.tool_calls for choice in said)
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {"default"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens > 2, "usage is the sum of the turns"
    last = chunks[-2].model_extra
    assert last == {
        "isthmus": {"tool_calls": [{"name": "model_list", "arguments": "{}", "is_error": False}]}
    }


async def test_a_whole_answer_tells_what_was_run(door: Door) -> None:
    async with connect(door) as client:
        answer = await ask(client, tools=[only("kv_get")])

    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content.startswith("not_found:")
    call = {"name": "kv_get", "arguments": '{"key": "greeting"}', "is_error": True}
    assert answer.model_extra["isthmus"]["tool_calls"] == [call]


async def test_the_tools_act_with_the_callers_rights(door: Door) -> None:
    reader = await door.keys.create("reader", tenant="door-readers", scopes=["read", "run"])
    async with AsyncOpenAI(base_url=door.base, api_key=reader["key"], max_retries=0) as client:
        await ask(client, tools=[ISTHMUS])
        offered = {tool["function"]["name"] for tool in door.model.requests[0]["tools"]}
        assert "kv_get" in offered
        assert "kv_set" not in offered
        with pytest.raises(openai.BadRequestError, match="kv_set"):
            await ask(client, tools=[only("kv_set")])


async def test_what_a_chat_stores_belongs_to_its_tenant(door: Door, operations: Operations) -> None:
    for tenant in ("chat-one", "chat-two"):
        made = await door.keys.create("writer", tenant=tenant)
        async with AsyncOpenAI(base_url=door.base, api_key=made["key"], max_retries=0) as client:
            answer = await ask(client, tools=[only("kv_set")])
            stored = json.loads(answer.choices[0].message.content)
            assert (stored["key"], stored["version"]) == ("greeting", 1)


async def test_read_only_narrows_to_tools_that_change_nothing(door: Door) -> None:
    async with connect(door) as client:
        await ask(client, tools=[{**ISTHMUS, "allowed_tools": {"read_only": True}}])
        names = {tool["function"]["name"] for tool in door.model.requests[0]["tools"]}
        assert "kv_get" in names
        assert "kv_set" not in names

        both = {"read_only": True, "tool_names": ["kv_set", "kv_get"]}
        await ask(client, tools=[{**ISTHMUS, "allowed_tools": both}])
        assert [t["function"]["name"] for t in door.model.requests[-2]["tools"]] == ["kv_get"]


CLIENT_TOOL: Any = {
    "type": "function",
    "function": {"name": "ask_human", "parameters": {"type": "object", "properties": {}}},
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_to_the_clients_own_function_goes_back_to_it(door: Door, stream: bool) -> None:
    async with connect(door) as client:
        forced: Any = {"type": "function", "function": {"name": "ask_human"}}
        answer = await ask(client, tools=[ISTHMUS, CLIENT_TOOL], tool_choice=forced, stream=stream)
        if stream:
            chunks = [chunk async for chunk in answer]
            calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
            reasons = [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason]
            assert calls[0].index == 0
            assert calls[0].id
            assert [call.function.name for call in calls if call.function.name] == ["ask_human"]
            assert "".join(call.function.arguments for call in calls) == "{}"
            assert reasons == ["tool_calls"]
        else:
            calls = answer.choices[0].message.tool_calls
            assert [call.function.name for call in calls] == ["ask_human"]
            assert answer.choices[0].finish_reason == "tool_calls"
    assert len(door.model.requests) == 1


async def test_the_clients_function_hides_a_tool_of_the_same_name(door: Door) -> None:
    own: Any = {"type": "function", "function": {"name": "kv_get", "description": "mine"}}
    async with connect(door) as client:
        answer = await ask(client, tools=[own, only("kv_get", "kv_list")])

    assert answer.choices[0].finish_reason == "tool_calls"
    offered = [tool["function"] for tool in door.model.requests[0]["tools"]]
    assert [function["name"] for function in offered] == ["kv_get", "kv_list"]
    assert offered[0]["description"] == "mine"


async def test_a_turn_with_calls_of_both_sides_returns_only_the_clients(
    control: AsyncEngine, operations: Operations, tmp_path: Path
) -> None:
    script = tmp_path / "mixed.yaml"
    script.write_text(
        "turns:\n"
        "- tool_calls: [{name: model_list}, {name: ask_human, arguments: {}}]\n"
        "- text: thanks\n"
    )
    async with open_door(control, operations, script=script) as door, connect(door) as client:
        messages: list[Any] = [{"role": "user", "content": "go"}]
        tools = [ISTHMUS, CLIENT_TOOL]
        first = await ask(client, messages=messages, tools=tools)
        calls = first.choices[0].message.tool_calls
        assert [call.function.name for call in calls] == ["ask_human"]
        assert first.choices[0].finish_reason == "tool_calls"
        assert [c["name"] for c in first.model_extra["isthmus"]["tool_calls"]] == ["model_list"]

        messages += [
            first.choices[0].message,
            {"role": "tool", "tool_call_id": calls[0].id, "content": "yes"},
        ]
        second = await ask(client, messages=messages, tools=tools)
        assert second.choices[0].message.content == "thanks"


async def test_a_tool_whose_name_openai_forbids_is_called_under_another(
    control: AsyncEngine, operations: Operations
) -> None:
    async def weather(city: str) -> str:
        """Tell the weather."""
        return f"snow in {city}"

    plugins = with_tool(weather, "nested/weather.report" + "x" * 64)
    async with open_door(control, operations, plugins=plugins) as door, connect(door) as client:
        answer = await ask(client, tools=[only("nested/weather.report" + "x" * 64)])

        assert answer.choices[0].message.content == "snow in greeting"
        (tool,) = door.model.requests[0]["tools"]
        assert len(tool["function"]["name"]) <= 64
        assert tool["function"]["name"].startswith("nested_weather_report")
        ran = answer.model_extra["isthmus"]["tool_calls"]
        assert [call["name"] for call in ran] == ["nested/weather.report" + "x" * 64]


async def test_a_choice_of_type_mcp_names_a_tool(door: Door) -> None:
    async with connect(door) as client:
        choice: Any = {"type": "mcp", "server_label": "isthmus", "name": "kv_list"}
        answer = await ask(client, tools=[ISTHMUS], tool_choice=choice)
        assert answer.model_extra["isthmus"]["tool_calls"][0]["name"] == "kv_list"

        whole: Any = {"type": "mcp", "server_label": "isthmus"}
        answer = await ask(client, tools=[only("kv_list")], tool_choice=whole)
        assert answer.model_extra["isthmus"]["tool_calls"][0]["name"] == "kv_list"


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "another server": (
        {"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://example.com"}]},
        "tools[0].server_url",
        "unsupported_value",
    ),
    "a connector": (
        {"tools": [{"type": "mcp", "server_label": "x", "connector_id": "connector_gmail"}]},
        "tools[0].connector_id",
        "unsupported_value",
    ),
    "an unknown label": (
        {"tools": [{"type": "mcp", "server_label": "nowhere"}]},
        "tools[0].server_label",
        "invalid_value",
    ),
    "no label": (
        {"tools": [{"type": "mcp"}]},
        "tools[0].server_label",
        "missing_required_parameter",
    ),
    "an unknown label in metadata": (
        {"metadata": {"mcp_servers": "isthmus, nowhere"}},
        "metadata.mcp_servers",
        "invalid_value",
    ),
    "an approval": (
        {"tools": [{**ISTHMUS, "require_approval": "always"}]},
        "tools[0].require_approval",
        "unsupported_value",
    ),
    "an approval for some": (
        {"tools": [{**ISTHMUS, "require_approval": {"never": {"tool_names": ["kv_get"]}}}]},
        "tools[0].require_approval",
        "unsupported_value",
    ),
    "an unknown tool": (
        {"tools": [only("kv_get", "kv_gte")]},
        "tools[0].allowed_tools",
        "invalid_value",
    ),
    "allowed tools of a wrong type": (
        {"tools": [{**ISTHMUS, "allowed_tools": "kv_get"}]},
        "tools[0].allowed_tools",
        "invalid_type",
    ),
    "a tool name of a wrong type": (
        {"tools": [{**ISTHMUS, "allowed_tools": {"tool_names": [1]}}]},
        "tools[0].allowed_tools.tool_names[0]",
        "invalid_type",
    ),
    "read_only of a wrong type": (
        {"tools": [{**ISTHMUS, "allowed_tools": {"read_only": "yes"}}]},
        "tools[0].allowed_tools.read_only",
        "invalid_type",
    ),
    "several choices": ({"tools": [ISTHMUS], "n": 2}, "n", "unsupported_value"),
    "functions of the old form": (
        {"tools": [ISTHMUS], "functions": [{"name": "f"}]},
        "functions",
        "unsupported_value",
    ),
    "a choice of another server": (
        {"tools": [ISTHMUS], "tool_choice": {"type": "mcp", "server_label": "nowhere"}},
        "tool_choice.server_label",
        "invalid_value",
    ),
    "a choice that is not clear": (
        {
            "tools": [ISTHMUS, CLIENT_TOOL],
            "tool_choice": {"type": "mcp", "server_label": "isthmus"},
        },
        "tool_choice",
        "unsupported_value",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_an_opt_in_that_cannot_be_served_is_refused_by_name(door: Door, case: str) -> None:
    more, param, code = REFUSED[case]
    async with connect(door) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, **more)

    assert caught.value.body is not None
    assert (caught.value.param, caught.value.code) == (param, code)
    assert door.model.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_the_running_tool(
    control: AsyncEngine, operations: Operations, stream: bool
) -> None:
    seen: list[str] = []

    async def dawdle() -> str:
        """Take very long."""
        seen.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "late"

    async with open_door(control, operations, plugins=with_tool(dawdle, "dawdle")) as door:
        async with httpx2.AsyncClient() as http:
            body = {
                "model": "default",
                "messages": [{"role": "user", "content": "x"}],
                "tools": [only("dawdle")],
                "stream": stream,
            }
            headers = {"authorization": f"Bearer {API_KEY}"}
            asking = asyncio.create_task(
                http.post(f"{door.base}/chat/completions", headers=headers, json=body)
            )
            await until(lambda: seen == ["begun"])
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: seen == ["begun", "cancelled"])


async def test_a_stream_is_kept_alive_while_a_tool_runs(
    control: AsyncEngine, operations: Operations
) -> None:
    enough = asyncio.Event()

    async def slow() -> str:
        """Wait until it was waited for."""
        await enough.wait()
        return "done at last"

    plugins = with_tool(slow, "slow")
    raw = ""
    async with open_door(control, operations, plugins=plugins, ping_seconds=0.02) as door:
        body = {
            "model": "default",
            "stream": True,
            "messages": [{"role": "user", "content": "x"}],
            "tools": [only("slow")],
        }
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
                if raw.count(": ping\n\n") >= 2:
                    enough.set()
    assert '"content":" last"' in raw
    assert raw.endswith("data: [DONE]\n\n")


async def test_a_failure_after_a_tool_ran_is_not_worth_a_retry(
    control: AsyncEngine, operations: Operations, tmp_path: Path
) -> None:
    script = tmp_path / "fail.yaml"
    script.write_text(
        "turns:\n- tool_calls: [{name: model_list}]\n- error: {status: 500, message: out of order}\n"
    )
    async with open_door(control, operations, script=script) as door:
        async with AsyncOpenAI(base_url=door.base, api_key=API_KEY, max_retries=3) as client:
            with pytest.raises(openai.InternalServerError, match="out of order") as caught:
                await ask(client, tools=[ISTHMUS])

    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(door.model.requests) == 2, "one turn with the tool, one that failed, no repetition"


async def test_a_loop_without_an_end_is_stopped_and_says_so(
    control: AsyncEngine, operations: Operations, tmp_path: Path
) -> None:
    script = tmp_path / "forever.yaml"
    script.write_text("turns: [{tool_calls: [{name: model_list}]}]")
    async with open_door(control, operations, script=script) as door, connect(door) as client:
        answer = await ask(client, tools=[ISTHMUS])

    assert answer.choices[0].finish_reason == "length"
    assert answer.model_extra["isthmus"]["stopped"] == "turns"
