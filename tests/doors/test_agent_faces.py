"""Agents as tools and as prompts of their own: seen and used by the callers of their tenant that may, at every door."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mcp_server import policy
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.grid import DOORS, ROLES, TENANTS, open_caller
from tests.doors.live import DOORS as CLIENTS
from tests.doors.live import Live, open_door, open_live
from tests.doors.tasks_client import over_http
from tests.doors.test_subscriptions import EARS, Ear, ListenEar, SessionEar, SseEar

# What the obedient model does with it: it calls this tool, and answers with the result.
INPUT = json.dumps({"tool": "kv_list", "arguments": {}})
HEARD_SECONDS = 30.0
CONVENTIONS = {
    "instructions": "Write for {{reader}} in {{language}}.",
    "description": "Writes in the house's style.",
    "variables": {"reader": None, "language": "English"},
}
# More for each role: scopes that name one agent and its faces.
NAMED = {
    "one agent": ("run:tool://agent_shown", "run:agent://shown", "run:model://*"),
    "its tool only": ("run:tool://agent_shown",),
    "its run only": ("run:agent://shown", "run:tool://agent_run"),
    "its prompt": ("read:prompt://agent_shown", "read:agent://shown"),
}


@dataclass(frozen=True)
class World:
    """A server on which each tenant shows an agent `shown`, and one more that is named like its tenant."""

    live: Live
    http: aiohttp.ClientSession
    keys: dict[tuple[str, str], str]


def owner_of(tenant: str) -> Principal:
    return Principal(tenant, "owner", OWNER_SCOPES)


async def do(live: Live, tool: str, arguments: dict[str, Any], tenant: str = "default") -> Any:
    done = await live.runtime.bus.call(owner_of(tenant), tool, arguments)
    assert not done.is_error, (tool, done.text)
    return done.structured


async def refused(live: Live, tool: str, arguments: dict[str, Any]) -> str:
    done = await live.runtime.bus.call(owner_of("default"), tool, arguments)
    assert done.is_error, (tool, done.text)
    return done.text


@pytest.fixture(scope="module")
async def world(anyio_backend: object, scratch: Path) -> AsyncIterator[World]:
    async with open_live(scratch / "faces") as live, raw.open_http() as http:
        keys = {
            (role, tenant): (await make_key(live, *scopes, tenant=tenant))["key"]
            for role, scopes in (ROLES | NAMED).items()
            for tenant in TENANTS
        }
        shown = {"as_tool": True, "as_prompt": True, "tools": ["kv_list"]}
        for tenant in TENANTS:
            for name in ("shown", f"of-{tenant}"):
                saved = {"name": name, "instructions": "Do as you are told.", **shown}
                await do(live, "agent_save", saved, tenant)
            await do(live, "agent_save", {"name": "hidden", "instructions": "x"}, tenant)
        yield World(live, http, keys)


async def tools_of(world: World, key: str) -> dict[str, dict[str, Any]]:
    listed = (await raw.modern(world.http, world.live.url, key, "tools/list")).result["tools"]
    return {tool["name"]: tool for tool in listed}


async def prompts_of(world: World, key: str) -> dict[str, dict[str, Any]]:
    listed = (await raw.modern(world.http, world.live.url, key, "prompts/list")).result["prompts"]
    return {prompt["name"]: prompt for prompt in listed}


# --- who sees and uses them --------------------------------------------------------------------


@pytest.mark.parametrize("role", [*ROLES, *NAMED])
@pytest.mark.parametrize("door", DOORS)
async def test_an_agents_tool_is_listed_and_called_exactly_when_policy_allows_it(
    world: World, door: str, role: str
) -> None:
    for tenant in TENANTS:
        key = world.keys[role, tenant]
        principal = await world.live.runtime.services.keys.authenticate(key)
        needs = ["tool://agent_shown", "agent://shown"]
        allowed = all(policy.allows(principal, "run", uri) for uri in needs)
        async with open_caller(world.http, world.live, door, key) as caller:
            if door == "chat":
                allowed = allowed and policy.allows(principal, "run", "model://default")
            else:
                assert ("agent_shown" in await caller.tools()) == allowed, (door, role, tenant)
            answer = await caller.call("agent_shown", {"input": INPUT})
        where = (door, role, tenant, answer)
        assert answer.is_error != allowed, where
        if not allowed:
            assert answer.text.startswith("forbidden: "), where


@pytest.mark.parametrize("role", [*ROLES, *NAMED])
@pytest.mark.parametrize("door", ["http", "handshake", "sse"])
async def test_an_agents_prompt_is_got_exactly_when_policy_allows_it(
    world: World, door: str, role: str
) -> None:
    for tenant in TENANTS:
        key = world.keys[role, tenant]
        principal = await world.live.runtime.services.keys.authenticate(key)
        needs = ["prompt://agent_shown", "agent://shown"]
        allowed = all(policy.allows(principal, "read", uri) for uri in needs)
        assert ("agent_shown" in await prompts_of(world, key)) == allowed, (role, tenant)
        async with open_caller(world.http, world.live, door, key) as caller:
            answer = await caller.prompt("agent_shown", {})
        where = (door, role, tenant, answer)
        assert answer.is_error != allowed, where
        expected = "Do as you are told." if allowed else "forbidden: "
        assert answer.text.startswith(expected), where


@pytest.mark.parametrize("tenant", TENANTS)
async def test_a_foreign_tenants_agents_are_neither_listed_nor_there(
    world: World, tenant: str
) -> None:
    key = world.keys["all", tenant]
    foreign = f"agent_of-{next(each for each in TENANTS if each != tenant)}"
    own = {"agent_shown", f"agent_of-{tenant}"}
    tools = {name for name in await tools_of(world, key) if "shown" in name or "of-" in name}
    assert tools == own
    assert own <= set(await prompts_of(world, key))
    assert foreign not in await prompts_of(world, key)
    called = await raw.call(world.http, world.live.url, key, foreign, {"input": "x"})
    nowhere = await raw.call(world.http, world.live.url, key, "agent_of-nobody", {"input": "x"})
    assert called.error == {"code": -32602, "message": f"Unknown tool: {foreign}"}
    assert nowhere.error["code"] == -32602
    got = await raw.modern(world.http, world.live.url, key, "prompts/get", {"name": foreign})
    assert got.error == {"code": -32602, "message": f"Unknown prompt: {foreign}"}


async def test_an_agent_that_is_not_shown_is_neither(world: World) -> None:
    assert "agent_hidden" not in await tools_of(world, world.live.key)
    called = await raw.call(world.http, world.live.url, world.live.key, "agent_hidden", {})
    assert called.error["message"] == "Unknown tool: agent_hidden"


# --- what they are -----------------------------------------------------------------------------


@pytest.mark.parametrize("door", CLIENTS)
async def test_a_call_is_a_run_of_the_agent_at_every_door(world: World, door: str) -> None:
    async with open_door(world.live, door) as client:
        answer = await client.call("agent_shown", {"input": INPUT})
    assert not answer.is_error, answer
    run = await do(world.live, "run_get", {"run": answer.structured["run"]})
    assert (run["agent"], run["status"], answer.structured["status"]) == (
        *("shown", "completed"),
        "completed",
    )
    assert answer.structured["output"] == run["output"]


async def test_a_tool_takes_the_input_and_the_variables(world: World) -> None:
    name = "styled"
    shown = {"name": name, "as_tool": True, "memory": "conversation", **CONVENTIONS}
    await do(world.live, "agent_save", {"tools": ["kv_list"], **shown})
    listed = await tools_of(world, world.live.key)
    tool, run = listed["agent_styled"], listed["agent_run"]
    assert tool["description"] == CONVENTIONS["description"]
    schema = tool["inputSchema"]
    assert schema["required"] == ["input", "reader"]
    assert schema["properties"] == {
        "input": run["inputSchema"]["properties"]["input"],
        "conversation": run["inputSchema"]["properties"]["conversation"],
        "reader": {"type": "string"},
        "language": {"type": "string", "default": "English"},
    }
    assert (tool["outputSchema"], tool["annotations"]) == (run["outputSchema"], run["annotations"])
    done = await do(
        world.live, "agent_styled", {"input": INPUT, "reader": "Ann", "conversation": "style"}
    )
    trace = await do(world.live, "run_trace", {"run": done["run"]})
    assert "Write for Ann in English." in json.dumps(trace)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reader": "Ann"}, "invalid_input: input: this argument is required"),
        ({"input": "x"}, "invalid_input: reader: this argument is required"),
        ({"input": "x", "reader": 7}, "invalid_input: reader: give a text"),
        ({"input": 7, "reader": "Ann"}, "invalid_input: input"),
        (
            {"input": "x", "reader": "Ann", "writer": "Bob"},
            "invalid_input: writer: agent_strict has no such argument; it takes input, reader, language",
        ),
        ({"input": "x", "reader": "\ud800"}, "invalid_input: reader: it holds half a surrogate"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_by_name(
    world: World, arguments: dict[str, Any], message: str
) -> None:
    await do(world.live, "agent_save", {"name": "strict", "as_tool": True, **CONVENTIONS})
    assert (await refused(world.live, "agent_strict", arguments)).startswith(message)


async def test_a_client_of_the_tasks_extension_gets_a_task(world: World) -> None:
    client = over_http(world.http, world.live.url, world.live.key)
    task = await client.start("agent_shown", input=INPUT)
    ended = await client.until(task, seconds=HEARD_SECONDS)
    assert ended["status"] == "completed"
    assert (await do(world.live, "run_get", {"run": task}))["agent"] == "shown"


async def test_an_agent_may_have_another_one_as_a_tool(world: World) -> None:
    saved = {"name": "asks-shown", "instructions": "x", "tools": ["agent_shown"]}
    await do(world.live, "agent_save", saved)
    wanted = json.dumps({"tool": "agent_shown", "arguments": {"input": INPUT}})
    done = await do(world.live, "agent_run", {"agent": "asks-shown", "input": wanted})
    assert json.loads(done["output"])["status"] == "completed", done


async def test_a_paused_agent_is_no_tool_until_it_goes_on(world: World) -> None:
    await do(world.live, "agent_save", {"name": "resting", "instructions": "x", "as_tool": True})
    assert "agent_resting" in await tools_of(world, world.live.key)
    await do(world.live, "agent_pause", {"name": "resting"})
    assert "agent_resting" not in await tools_of(world, world.live.key)
    told = await refused(world.live, "agent_resting", {"input": "x"})
    assert told == "conflict: agent 'resting' is paused; agent_resume lets new runs begin"
    await do(world.live, "agent_resume", {"name": "resting"})
    assert "agent_resting" in await tools_of(world, world.live.key)
    await do(world.live, "agent_delete", {"name": "resting"})
    assert "agent_resting" not in await tools_of(world, world.live.key)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"name": "get", "as_tool": True},
            "invalid_input: as_tool: there is another tool 'agent_get'; save the agent under another "
            "name, or with as_tool false",
        ),
        ({"name": "n" * 123, "as_tool": True}, "invalid_input: as_tool: 'agent_nnn"),
        (
            {"name": "me", "as_tool": True, "tools": ["agent_me"]},
            "invalid_input: tools: by 'agent_me' the agent would run itself; leave it out",
        ),
    ],
)
async def test_an_agent_that_cannot_be_shown_is_not_saved(
    world: World, fields: dict[str, Any], message: str
) -> None:
    told = await refused(world.live, "agent_save", {"instructions": "x", **fields})
    assert told.startswith(message)
    await refused(world.live, "agent_get", {"name": fields["name"]})


# --- prompts -----------------------------------------------------------------------------------


async def test_a_prompt_is_the_instructions_with_the_variables_in_their_places(
    world: World,
) -> None:
    await do(world.live, "agent_save", {"name": "letter", "as_prompt": True, **CONVENTIONS})
    url, key = world.live.url, world.live.key
    prompt = (await prompts_of(world, key))["agent_letter"]
    assert prompt["description"] == CONVENTIONS["description"]
    assert [(item["name"], item["required"]) for item in prompt["arguments"]] == [
        ("reader", True),
        ("language", False),
        ("input", False),
    ]

    async def get(**arguments: str) -> raw.Reply:
        wanted = {"name": "agent_letter", "arguments": arguments}
        return await raw.modern(world.http, url, key, "prompts/get", wanted)

    said = (await get(reader="Ann", input="Good morning")).result["messages"]
    assert [(item["role"], item["content"]["text"]) for item in said] == [
        ("user", "Write for Ann in English."),
        ("user", "Good morning"),
    ]
    assert "reader: this argument is required" in (await get()).error["message"]
    assert (
        "writer: prompt agent_letter has no such argument"
        in ((await get(reader="Ann", writer="Bob")).error["message"])
    )


async def complete(
    world: World, ref: dict[str, str], argument: str, value: str, key: str | None = None
) -> list[str]:
    params = {"ref": ref, "argument": {"name": argument, "value": value}}
    answer = await raw.modern(
        world.http, world.live.url, key or world.live.key, "completion/complete", params
    )
    return answer.result["completion"]["values"]


async def test_names_of_agents_and_texts_of_variables_complete(world: World) -> None:
    await do(world.live, "agent_save", {"name": "mail", "as_prompt": True, **CONVENTIONS})
    by_name = {"type": "ref/resource", "uri": "agent://{name}"}
    assert await complete(world, by_name, "name", "of-") == ["of-default"]
    foreign = world.keys["all", "foreign"]
    assert await complete(world, by_name, "name", "of-", foreign) == ["of-foreign"]
    assert await complete(world, by_name, "name", "", world.keys["nothing", "default"]) == []
    prompt = {"type": "ref/prompt", "name": "agent_mail"}
    assert await complete(world, prompt, "language", "Eng") == ["English"]
    assert await complete(world, prompt, "language", "Ger") == []
    assert await complete(world, prompt, "reader", "") == []
    assert await complete(world, prompt, "language", "", foreign) == []


# --- changed lists -----------------------------------------------------------------------------


async def hear_lists(stack: AsyncExitStack, world: World, kind: str, key: str) -> Ear:
    """Open an ear for changed lists; when this returns the server will tell of the next change."""
    match kind:
        case "session":
            session = await raw.Handshake(world.http, world.live.url, key).open()
            stream = await stack.enter_async_context(session.listening())
            for method in ("tools/list", "prompts/list"):
                assert "result" in (await session.request(method)).message
            return SessionEar(session, stream)
        case "sse":
            sse = await stack.enter_async_context(raw.open_sse(world.http, world.live.url, key))
            for method in ("tools/list", "prompts/list"):
                assert "result" in await sse.request(method)
            return SseEar(sse)
        case _:
            wanted = {"notifications": {"toolsListChanged": True, "promptsListChanged": True}}
            answer = await stack.enter_async_context(
                world.http.post(
                    f"{world.live.url}/mcp",
                    json=raw.modern_request("subscriptions/listen", wanted, "watch"),
                    headers=raw.modern_headers(key, "subscriptions/listen"),
                )
            )
            stream = raw.EventStream(answer)
            acknowledged = await stream.message()
            assert acknowledged["params"]["notifications"] == wanted["notifications"]
            return ListenEar(stream)


async def method_heard(ear: Any) -> str:
    if isinstance(ear, SseEar):
        message = await ear.session.others.get()
    else:
        message = await ear.stream.message(HEARD_SECONDS)
    return str(message["method"]).removeprefix("notifications/").removesuffix("/list_changed")


@pytest.mark.parametrize("kind", EARS)
async def test_clients_hear_when_their_lists_change_and_only_then(world: World, kind: str) -> None:
    name = f"news-{kind}"
    agent = {"name": name, "instructions": "x"}
    steps: list[tuple[str, dict[str, Any], list[str]]] = [
        ("agent_save", agent, []),
        ("agent_save", agent | {"as_tool": True}, ["tools"]),
        ("agent_pause", {"name": name}, ["tools"]),
        ("agent_resume", {"name": name}, ["tools"]),
        ("agent_save", agent | {"as_tool": True, "as_prompt": True}, ["tools", "prompts"]),
        ("agent_save", agent | {"as_prompt": True}, ["tools", "prompts"]),
        ("agent_pause", {"name": name}, []),
        ("agent_delete", {"name": name}, ["prompts"]),
        # Whoever heard nothing of this tenant's changes hears of one of their own at the end.
        ("agent_save", agent | {"name": f"last-{kind}", "as_tool": True}, ["tools"]),
    ]
    async with AsyncExitStack() as stack:
        ear = await hear_lists(stack, world, kind, world.keys["all", "default"])
        foreign = await hear_lists(stack, world, kind, world.keys["all", "foreign"])
        reader = await hear_lists(stack, world, kind, world.keys["read", "default"])
        for tool, arguments, heard in steps:
            await do(world.live, tool, arguments)
            for expected in heard:
                assert await method_heard(ear) == expected, (tool, arguments)
        own = {"name": f"own-{kind}", "instructions": "x", "as_prompt": True}
        await do(world.live, "agent_save", own, "foreign")
        assert await method_heard(foreign) == "prompts"
        for _ in range(3):  # of tools, which it may not run, it heard nothing
            assert await method_heard(reader) == "prompts"


async def test_a_session_is_told_that_its_lists_may_change(world: World) -> None:
    session = raw.Handshake(world.http, world.live.url, world.live.key)
    capabilities = (await session.post(raw.initialize())).result["capabilities"]
    assert capabilities["tools"]["listChanged"] is True
    assert capabilities["prompts"]["listChanged"] is True
