"""The roles, what each row's call opens inside, and one cheap client for each door and key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError
from mcp_server.policy import Listing, Verb
from tests.doors import raw
from tests.doors.live import Answer, Live
from tests.doors.rows import ASK

DOORS = ("bus", "http", "handshake", "sse", "chat")
TENANTS = ("default", "foreign")

# A key without scopes gets the default ones, so two roles hold one harmless scope each.
ROLES: dict[str, tuple[str, ...]] = {
    "nothing": ("run:kv://nowhere/x",),
    "nowhere": ("read:kv://nowhere/x",),
    "read": ("read",),
    "write": ("write",),
    "run": ("run",),
    "admin": ("admin",),
    "default": (),
    "all": ("read", "write", "run", "admin"),
    "prefix": ("read:kv://default/door*", "run:model://*"),
    "chat reader": ("read", "run:model://*"),
    "chat writer": ("write", "run:model://default"),
}

Need = tuple[Verb, str]

# What the call of a row does inside, beside calling the tool; `$run` is a run of the tenant.
NEEDS: dict[str, tuple[Need, ...]] = {
    "sql_query": (("read", "sql://main/door_t"),),
    "sql_execute": (("write", "sql://main/door_t"), ("read", "sql://main/door_t")),
    "sql_explain": (("read", "sql://main/door_t"),),
    "sql_schema": (("read", Listing("sql://main/")),),
    "kv_get": (("read", "kv://default/door"),),
    "kv_get_many": (("read", "kv://default/door"), ("read", "kv://default/door-absent")),
    "kv_set": (("write", "kv://default/door-set"),),
    "kv_increment": (("write", "kv://default/door-sum"),),
    "kv_lease": (("write", "kv://default/door-lease"),),
    "kv_release": (("write", "kv://default/door-lease"),),
    "kv_delete": (("write", "kv://default/door-absent"),),
    "kv_list": (("read", Listing("kv://default/door-list/")),),
    "object_put": (("write", "object://default/door/put.txt"),),
    "object_get": (("read", "object://default/door/get.txt"),),
    "object_list": (("read", Listing("object://default/door-list/")),),
    "object_stat": (("read", "object://default/door/stat.txt"),),
    "object_versions": (("read", "object://default/door/stat.txt"),),
    "object_copy": (
        ("write", "object://default/door/copy.txt"),
        ("read", "object://default/door/stat.txt"),
    ),
    "object_tag": (("write", "object://default/door/tag.txt"),),
    "object_link": (("read", "object://default/door/stat.txt"),),
    "object_link_revoke": (("read", "object://default/door/stat.txt"),),
    "object_delete": (("write", "object://default/door-absent"),),
    "vector_add": (("write", "vector://door/d1"),),
    "vector_search": (("read", Listing("vector://door/")),),
    "vector_delete": (("write", "vector://door/absent"),),
    "vector_ingest": (("write", "vector://door/d1"),),
    "vector_update": (("write", "vector://door/d1"),),
    "vector_store_delete": (("write", "vector://door-absent/"),),
    "vector_list": (("read", Listing("vector://door/")),),
    "agent_save": (("write", "agent://door-agent"),),
    "agent_get": (("read", "agent://door-agent"),),
    "agent_versions": (("read", "agent://door-agent"),),
    "agent_pause": (("write", "agent://door-resting"),),
    "agent_resume": (("write", "agent://door-resting"),),
    "agent_delete": (("write", "agent://door-absent"),),
    "schedule_save": (("write", "schedule://door"), ("run", "agent://door-agent")),
    "schedule_list": (("read", Listing("schedule://")),),
    "schedule_preview": (("read", "schedule://door"),),
    "schedule_pause": (("write", "schedule://door"),),
    "schedule_resume": (("write", "schedule://door"),),
    "schedule_delete": (("write", "schedule://door-absent"),),
    "trigger_save": (("write", "trigger://door"), ("run", "agent://door-agent")),
    "trigger_list": (("read", Listing("trigger://")),),
    "trigger_pause": (("write", "trigger://door"),),
    "trigger_resume": (("write", "trigger://door"),),
    "trigger_delete": (("write", "trigger://door-absent"),),
    "agent_list": (("read", Listing("agent://")),),
    "agent_stats": (("read", Listing("run://")),),
    "agent_run": (("run", "agent://door-agent-run"),),
    "run_get": (("read", "run://$run"),),
    "run_list": (("read", Listing("run://")),),
    "run_events": (("read", "run://$run"),),
    "run_trace": (("read", "run://$run"),),
    "run_input": (("run", "run://$asking"),),
    "run_cancel": (("run", "run://$run"),),
    "changes": (("read", "tool://changes"),),
    "undo": (("write", "kv://default/door-undo"),),
    "run_undo": (("write", "tool://run_undo"), ("read", "run://$run")),
    "write_together": (
        ("write", "sql://main/door_t"),
        ("read", "sql://main/door_t"),
        ("write", "kv://default/door-unit"),
    ),
    "model_list": (("read", Listing("model://")),),
}


@asynccontextmanager
async def asking(live: Live, principal: Principal, arguments: Any) -> AsyncGenerator[Any]:
    """Put a run that waits for an approval in the place of `$asking`, and outlast it.

    `$change` becomes the change that made a key.
    """
    given = json.dumps(arguments)
    if "$change" in given:
        yield json.loads(given.replace("$change", await changed(live, principal)))
        return
    if "$asking" not in given:
        yield arguments
        return
    started = await live.runtime.bus.call(principal, "agent_run", ASK)
    assert started.structured is not None, started.text
    assert started.structured["status"] == "input_required", started.text
    run = started.structured["run"]
    yield json.loads(given.replace("$asking", run))
    async with aclosing(live.runtime.services.runs.follow(principal, run)) as events:
        async with asyncio.timeout(20):
            async for _ in events:
                pass


async def changed(live: Live, principal: Principal) -> str:
    """Make a key anew, and return the position of that change once it is shown."""
    at = {"key": "door-undo", "value": 1}
    made = await live.runtime.bus.call(principal, "kv_set", at)
    assert made.structured is not None, made.text
    this = {"type": "eq", "key": "version", "value": made.structured["version"]}
    async with asyncio.timeout(10):
        while True:
            seen = await live.runtime.services.changes.list(principal, filter=this)
            if seen["items"]:
                return seen["items"][0]["change"]
            await asyncio.sleep(0.01)


class Caller(Protocol):
    """One key at one door."""

    async def call(self, tool: str, arguments: dict[str, Any]) -> Answer: ...

    async def read(self, uri: str) -> Answer: ...

    async def prompt(self, name: str, arguments: dict[str, str]) -> Answer: ...

    async def tools(self) -> list[str]: ...


class BusCaller:
    def __init__(self, live: Live, principal: Principal) -> None:
        self._bus, self._principal = live.runtime.bus, principal

    async def call(self, tool: str, arguments: dict[str, Any]) -> Answer:
        result = await self._bus.call(self._principal, tool, arguments)
        return Answer(result.text, result.structured, result.is_error)

    async def read(self, uri: str) -> Answer:
        try:
            (content,) = await self._bus.read(self._principal, uri)
        except AppError as error:
            return Answer(str(error), is_error=True)
        return Answer(content.text or content.blob or "")

    async def prompt(self, name: str, arguments: dict[str, str]) -> Answer:
        raise NotImplementedError(f"the bus gives no prompts: {name}, {arguments}")

    async def tools(self) -> list[str]:
        return [spec.name for spec in await self._bus.list_tools(self._principal)]


@dataclass
class McpCaller:
    """JSON-RPC over one of the three HTTP transports; `session` is None in the 2026-07-28 era."""

    http: aiohttp.ClientSession
    live: Live
    key: str
    session: raw.Handshake | raw.SseSession | None

    async def message(self, method: str, params: dict[str, Any]) -> raw.Message:
        if self.session is None:
            answer = await raw.modern(self.http, self.live.url, self.key, method, params)
            return answer.message
        answer = await self.session.request(method, params)
        return answer.message if isinstance(answer, raw.Reply) else answer

    async def call(self, tool: str, arguments: dict[str, Any]) -> Answer:
        message = await self.message("tools/call", {"name": tool, "arguments": arguments})
        result = message["result"]
        return Answer(
            raw.text_of(result), result.get("structuredContent"), result.get("isError", False)
        )

    async def read(self, uri: str) -> Answer:
        message = await self.message("resources/read", {"uri": uri})
        if "error" in message:
            assert message["error"]["data"] == {"uri": uri}
            return Answer(message["error"]["message"], is_error=True)
        (content,) = message["result"]["contents"]
        return Answer(content.get("text") or content["blob"])

    async def prompt(self, name: str, arguments: dict[str, str]) -> Answer:
        message = await self.message("prompts/get", {"name": name, "arguments": arguments})
        if "error" in message:
            return Answer(message["error"]["message"], is_error=True)
        return Answer(message["result"]["messages"][0]["content"]["text"])

    async def tools(self) -> list[str]:
        message = await self.message("tools/list", {})
        return [tool["name"] for tool in message["result"]["tools"]]


class ChatCaller:
    """A chat whose model calls the one tool that it is told to."""

    def __init__(self, http: aiohttp.ClientSession, live: Live, key: str) -> None:
        self._http, self._url, self._key = http, f"{live.url}/v1/chat/completions", key

    async def _ask(self, tool: str, arguments: dict[str, Any]) -> raw.Reply:
        wanted = json.dumps({"tool": tool, "arguments": arguments})
        body = {
            "model": "default",
            "messages": [{"role": "user", "content": wanted}],
            "tools": [{"type": "mcp", "server_label": "isthmus", "allowed_tools": [tool]}],
        }
        return await raw.send(
            self._http, "POST", self._url, json=body, headers=raw.bearer(self._key)
        )

    async def call(self, tool: str, arguments: dict[str, Any]) -> Answer:
        reply = await self._ask(tool, arguments)
        if reply.status == 200:
            answer = json.loads(reply.body)
            (call,) = answer["isthmus"]["tool_calls"]
            return Answer(
                answer["choices"][0]["message"]["content"], is_error=bool(call["is_error"])
            )
        error = reply.error
        if reply.status == 403:
            assert error["code"] == "insufficient_permissions", reply
        else:  # a tool that is not listed cannot be selected
            assert (reply.status, error["param"]) == (400, "tools[0].allowed_tools"), reply
            assert f"no tool {tool!r} that this key may use" in error["message"]
        return Answer(f"forbidden: {error['message']}", is_error=True)

    async def read(self, uri: str) -> Answer:
        raise NotImplementedError(f"a chat reads no resources: {uri}")

    async def prompt(self, name: str, arguments: dict[str, str]) -> Answer:
        raise NotImplementedError(f"a chat gets no prompts: {name}, {arguments}")

    async def tools(self) -> list[str]:
        raise NotImplementedError("a chat lists its tools to the model only")


@asynccontextmanager
async def open_caller(
    http: aiohttp.ClientSession, live: Live, door: str, key: str
) -> AsyncGenerator[Caller]:
    async with AsyncExitStack() as stack:
        match door:
            case "bus":
                principal = await live.runtime.services.keys.authenticate(key)
                yield BusCaller(live, principal)
            case "chat":
                yield ChatCaller(http, live, key)
            case "http":
                yield McpCaller(http, live, key, None)
            case "handshake":
                session = await raw.Handshake(http, live.url, key).open()
                yield McpCaller(http, live, key, session)
            case _:
                stream = await stack.enter_async_context(raw.open_sse(http, live.url, key))
                yield McpCaller(http, live, key, stream)
