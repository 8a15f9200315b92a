"""Tools of this server in responses: listed once, run, asked about first, searched, and cited."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.doors.live import BusDoor, Live, open_live

ASKS: Any = {"type": "mcp", "server_label": "isthmus"}
RUNS: Any = ASKS | {"require_approval": "never"}


@dataclass
class World:
    live: Live
    client: AsyncOpenAI


@pytest.fixture(scope="module")
async def world(anyio_backend: object, scratch: Path) -> AsyncIterator[World]:
    async with open_live(scratch / "response-tools") as live:
        bus = BusDoor(live)
        for name, body in (
            ("file-1", "An isthmus joins two lands."),
            ("file-2", "Bread and butter."),
        ):
            added = {"store": "notes", "text": body, "document": name, "metadata": {"lang": name}}
            assert not (await bus.call("vector_add", added)).is_error
        async with AsyncOpenAI(
            base_url=f"{live.url}/v1", api_key=live.key, max_retries=0
        ) as client:
            yield World(live, client)


async def ask(world: World, tool: str, arguments: dict[str, Any], **more: Any) -> Any:
    """Have the obedient model call a tool."""
    wanted = json.dumps({"tool": tool, "arguments": arguments})
    request = {"model": "default", "input": wanted, "tools": [RUNS]}
    return await world.client.responses.create(**request | more)


def kinds(answer: Any) -> list[str]:
    return [item.type for item in answer.output]


async def value_of(world: World, key: str) -> Any:
    return (await BusDoor(world.live).call("kv_get", {"key": key})).structured


async def test_a_tool_is_run_and_the_servers_are_listed_once(world: World) -> None:
    first = await ask(world, "kv_set", {"key": "r1", "value": 7})

    assert kinds(first) == ["mcp_list_tools", "mcp_call", "message"]
    call = first.output[1]
    assert (call.name, call.server_label, call.status) == ("kv_set", "isthmus", "completed")
    assert json.loads(call.arguments) == {"key": "r1", "value": 7}
    assert json.loads(call.output)["value"] == 7
    assert (await value_of(world, "r1"))["value"] == 7
    second = await ask(world, "kv_get", {"key": "r1"}, previous_response_id=first.id)
    assert kinds(second) == ["mcp_call", "message"]


async def test_a_call_that_fails_is_told_as_an_object(world: World) -> None:
    answer = await ask(world, "kv_get", {"key": "absent"})

    call = answer.output[1]
    assert (call.status, call.output) == ("failed", None)
    assert call.error.type == "mcp_tool_execution_error"
    assert call.error.content[0]["text"].startswith("not_found: ")


async def test_only_the_tools_that_are_allowed_are_there(world: World) -> None:
    for allowed, names in (
        (["kv_get", "kv_set"], {"kv_get", "kv_set"}),
        ({"tool_names": ["kv_get", "kv_set"], "read_only": True}, {"kv_get"}),
    ):
        tool = RUNS | {"allowed_tools": allowed}
        answer = await ask(world, "kv_list", {}, tools=[tool])
        assert {each.name for each in answer.output[0].tools} == names
        assert kinds(answer) == ["mcp_list_tools", "message"]
        assert "there is no tool 'kv_list'" in answer.output_text
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(world, "kv_list", {}, tools=[RUNS | {"allowed_tools": ["nothing"]}])
    assert caught.value.param == "tools[0].allowed_tools"


async def test_without_a_word_every_call_is_asked_about(world: World) -> None:
    asked = await ask(world, "kv_set", {"key": "r2", "value": 1}, tools=[ASKS])

    assert kinds(asked) == ["mcp_list_tools", "mcp_approval_request"]
    request = asked.output[1]
    assert (request.name, json.loads(request.arguments)) == ("kv_set", {"key": "r2", "value": 1})
    assert await value_of(world, "r2") is None

    answer: Any = {
        "type": "mcp_approval_response",
        "approval_request_id": request.id,
        "approve": True,
    }
    done: Any = await world.client.responses.create(
        model="default", input=[answer], previous_response_id=asked.id, tools=[ASKS]
    )
    assert kinds(done) == ["mcp_call", "message"]
    assert done.output[0].approval_request_id == request.id
    assert json.loads(done.output_text)["value"] == 1
    version = (await value_of(world, "r2"))["version"]
    # What was done is not done again, whatever a client sends.
    more: Any = {"role": "user", "content": json.dumps({"tool": "kv_list", "arguments": {}})}
    again = await world.client.responses.create(
        model="default", input=[answer, more], previous_response_id=done.id, tools=[ASKS]
    )
    assert kinds(again) == ["mcp_approval_request"]
    assert (await value_of(world, "r2"))["version"] == version


async def test_a_call_that_is_refused_is_not_made(world: World) -> None:
    asked = await ask(world, "kv_set", {"key": "r3", "value": 1}, tools=[ASKS])
    answer: Any = {
        "type": "mcp_approval_response",
        "approval_request_id": asked.output[1].id,
        "approve": False,
        "reason": "not today",
    }
    # Without what is kept: the client sends all that was said.
    history: Any = [*(item.to_dict() for item in asked.output), answer]
    done: Any = await world.client.responses.create(
        model="default", input=history, tools=[ASKS], store=False
    )

    assert kinds(done) == ["mcp_call", "message"]
    assert done.output[0].status == "failed"
    assert done.output_text == "forbidden: the call was refused: not today"
    assert await value_of(world, "r3") is None


async def test_approvals_follow_their_filters(world: World) -> None:
    never = ASKS | {"require_approval": {"never": {"read_only": True}}}
    named = ASKS | {
        "require_approval": {"always": {"tool_names": ["kv_get"]}, "never": {"read_only": True}}
    }
    for tool, name, asked in (
        (never, "kv_list", False),
        (never, "kv_set", True),
        (named, "kv_list", False),
        (named, "kv_get", True),
    ):
        arguments = {"key": "r4", "value": 1} if name == "kv_set" else {}
        answer = await ask(world, name, arguments, tools=[tool])
        assert ("mcp_approval_request" in kinds(answer)) is asked, (tool, name)


async def test_an_answer_to_nothing_is_refused(world: World) -> None:
    answer: Any = {
        "type": "mcp_approval_response",
        "approval_request_id": "mcpr_1",
        "approve": True,
    }
    with pytest.raises(openai.BadRequestError) as caught:
        await world.client.responses.create(model="default", input=[answer], tools=[ASKS])
    assert caught.value.param == "input[0].approval_request_id"
    asked = await ask(world, "kv_set", {"key": "r5", "value": 1}, tools=[ASKS])
    with pytest.raises(openai.BadRequestError, match="not among the tools of this request"):
        await world.client.responses.create(
            model="default",
            input=[answer | {"approval_request_id": asked.output[1].id}],
            previous_response_id=asked.id,
        )


async def test_no_more_calls_are_made_than_allowed(world: World) -> None:
    first = await ask(world, "kv_set", {"key": "r6", "value": 1}, max_tool_calls=1)
    assert first.output[1].status == "completed"
    assert first.max_tool_calls == 1


async def test_a_search_cites_what_it_found(world: World) -> None:
    tool: Any = {"type": "file_search", "vector_store_ids": ["notes"], "max_num_results": 1}
    query = {"query": "What joins two lands?"}
    shown = await ask(
        world, "file_search", query, tools=[tool], include=["file_search_call.results"]
    )

    assert kinds(shown) == ["file_search_call", "message"]
    search = shown.output[0]
    assert (search.status, search.queries) == ("completed", [query["query"]])
    (result,) = search.results
    assert (result.file_id, result.attributes) == ("file-1", {"lang": "file-1"})
    assert 0 < result.score <= 1
    (cited,) = shown.output[1].content[0].annotations
    assert (cited.type, cited.file_id, cited.index) == ("file_citation", "file-1", 0)

    plain = await ask(world, "file_search", query, tools=[tool])
    assert plain.output[0].results is None
    kept: Any = await world.client.responses.retrieve(
        plain.id, include=["file_search_call.results"]
    )
    assert kept.output[0].results[0].file_id == "file-1"
    kept = await world.client.responses.retrieve(plain.id)
    assert kept.output[0].results is None


async def test_a_search_heeds_its_filter_and_its_threshold(world: World) -> None:
    tool: Any = {"type": "file_search", "vector_store_ids": ["notes"]}
    query = {"query": "isthmus"}
    only = {"filters": {"type": "eq", "key": "lang", "value": "file-2"}}
    include = {"include": ["file_search_call.results"]}
    found = await ask(world, "file_search", query, tools=[tool | only], **include)
    assert [each.file_id for each in found.output[0].results] == ["file-2"]
    best = {"ranking_options": {"score_threshold": 1.0}}
    found = await ask(world, "file_search", query, tools=[tool | best], **include)
    assert [each.file_id for each in found.output[0].results] == ["file-1"]
    missing = await ask(world, "file_search", query, tools=[tool | {"vector_store_ids": ["no"]}])
    assert missing.output[0].status == "failed"
    assert missing.output_text.startswith("not_found: ")


async def test_a_choice_narrows_the_tools(world: World) -> None:
    choice: Any = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "mcp", "server_label": "isthmus", "name": "kv_get"}],
    }
    answer = await ask(world, "kv_set", {"key": "r7", "value": 1}, tool_choice=choice)
    assert "there is no tool 'kv_set'; there are: kv_get" in answer.output_text
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(world, "x", {}, tool_choice={"type": "mcp", "server_label": "other"})
    assert caught.value.param == "tool_choice"


async def test_a_server_elsewhere_is_reached_where_the_guard_admits_it(
    world: World, scratch: Path
) -> None:
    there = world.live.url.removeprefix("http://")
    elsewhere: Any = {
        "type": "mcp",
        "server_label": "other",
        "server_url": f"{world.live.url}/mcp",
        "authorization": world.live.key,
        "require_approval": "never",
    }
    with pytest.raises(openai.BadRequestError, match="not on the public internet"):
        await ask(world, "x", {}, tools=[elsewhere])
    async with (
        open_live(scratch / "response-elsewhere", fetch_allow=(there,)) as live,
        AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client,
    ):
        here = World(live, client)
        given = {"key": "r8", "value": 8}
        first = await ask(here, "other__kv_set", given, tools=[elsewhere])
        assert kinds(first) == ["mcp_list_tools", "mcp_call", "message"]
        assert (first.output[1].name, first.output[1].server_label) == ("kv_set", "other")
        assert (await value_of(world, "r8"))["value"] == 8
        assert await value_of(here, "r8") is None
        assert "authorization" not in first.tools[0].to_dict()
        more = {"previous_response_id": first.id}
        second = await ask(here, "other__kv_get", {"key": "r8"}, tools=[elsewhere], **more)
        assert kinds(second) == ["mcp_call", "message"]
        locked = elsewhere | {"authorization": "sk-wrong"}
        third = await ask(here, "other__kv_get", {"key": "r8"}, tools=[locked])
        assert third.output[0].error.startswith("the MCP server at ")
        assert "there is no tool 'other__kv_get'" in third.output_text


async def test_the_servers_own_address_needs_no_second_key(scratch: Path) -> None:
    address = "https://isthmus.example.com"
    async with (
        open_live(scratch / "response-own", public_url=address) as live,
        AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client,
    ):
        here = World(live, client)
        mine: Any = RUNS | {"server_label": "mine", "server_url": f"{address}/mcp"}
        answer = await ask(here, "mine__kv_set", {"key": "own", "value": 9}, tools=[mine])
        assert kinds(answer) == ["mcp_list_tools", "mcp_call", "message"]
        assert (answer.output[1].name, answer.output[1].server_label) == ("kv_set", "mine")
        assert (await value_of(here, "own"))["value"] == 9
        get = ("mine__kv_get", {"key": "own"})
        again = await ask(here, *get, tools=[mine], previous_response_id=answer.id)
        assert (kinds(again), again.output[0].error) == (["mcp_call", "message"], None)


@pytest.mark.parametrize(
    "tool",
    [
        {"server_label": "other"},
        {"server_label": "isthmus", "server_url": "https://mcp.example.com"},
        {"server_label": "x", "connector_id": "connector_dropbox"},
    ],
)
async def test_a_server_that_is_none_is_refused(world: World, tool: dict[str, str]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(world, "x", {}, tools=[{"type": "mcp", **tool}])
    assert caught.value.code == "unsupported_value"
