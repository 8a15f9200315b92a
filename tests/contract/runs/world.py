"""One process with runs: the scripted model, and the real key-value service as its toolbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import anyio
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.agents.loop import Toolbox, ToolOutcome
from mcp_server.auth.principal import Principal
from mcp_server.bus import ToolSpec
from mcp_server.llm import Model
from mcp_server.llm.script_file import load_turns
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.operation import Operations
from mcp_server.services.agents import AgentService
from mcp_server.services.kv import KvService
from mcp_server.services.runs import RunService, open_runs

WRITE_THEN_ANSWER = """
turns:
- tool_calls: [{name: kv_set, arguments: {key: a, value: 1}}]
- text: all done
"""
SLOW = "turns: [{text: late, delay_ms: 60000}]"
BUSY = "turns: [{tool_calls: [{name: kv_get, arguments: {key: none}}]}]"


class KvToolbox:
    """The real key-value service as a toolbox; every call is decided by its principal."""

    def __init__(self, kv: KvService, principal: Principal, names: Sequence[str]) -> None:
        self._kv, self._principal, self._names = kv, principal, names

    async def specs(self) -> list[dict[str, Any]]:
        return [{"type": "function", "function": {"name": name}} for name in self._names]

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        if name == "kv_set":
            await self._kv.set(self._principal, "default", **arguments, idempotency_key=key)
            return ToolOutcome("set")
        item = await self._kv.get(self._principal, "default", arguments["key"])
        return ToolOutcome(json.dumps(item["value"]))


class World:
    """One process: its runs, and what a test may change under them."""

    def __init__(self, operations: Operations, control: AsyncEngine) -> None:
        self.operations, self.control = operations, control
        self.kv = KvService(operations, control)
        self.script = "turns: [{text: 'well, hello'}]"
        self.model: Callable[[], Model] = self._scripted
        self.scopes: Callable[[Principal], frozenset[str] | None] = lambda principal: (
            principal.scopes
        )
        self.agents = AgentService(
            operations, control, models=ScriptedModel().models, tools=self._tools
        )

    async def model_for(self, model_id: str) -> tuple[Model, str]:
        del model_id
        return self.model(), "scripted"

    def _scripted(self) -> Model:
        return ScriptedModel(load_turns(self.script, "script"))

    async def _tools(self, _: Principal) -> list[ToolSpec]:
        names = ("kv_get", "kv_set")
        return [ToolSpec(name, "", {}, read_only=False, egress=False) for name in names]

    async def scopes_now(self, principal: Principal) -> frozenset[str] | None:
        return self.scopes(principal)

    def toolbox_for(self, principal: Principal, names: Sequence[str]) -> Toolbox:
        return KvToolbox(self.kv, principal, names)

    def open(self, concurrency: int = 8) -> AbstractAsyncContextManager[RunService]:
        return open_runs(
            self.operations,
            self.control,
            model_for=self.model_for,
            toolbox_for=self.toolbox_for,
            scopes_now=self.scopes_now,
            concurrency=concurrency,
        )

    async def save(self, principal: Principal, **fields: Any) -> None:
        given = {"instructions": "Be brief.", "tools": ["kv_get", "kv_set"], **fields}
        await self.agents.save(principal, "helper", **given)


async def ended(runs: RunService, principal: Principal, run: str) -> list[dict[str, Any]]:
    """Follow a run to its end and return its events, which must be numbered without a gap."""
    with anyio.fail_after(30):
        async with aclosing(runs.follow(principal, run)) as following:
            events = [event async for event in following]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    return events
