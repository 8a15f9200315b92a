"""One process with runs and a worker: the scripted model, and the real key-value service as its toolbox."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.agents.loop import Toolbox, ToolOutcome
from mcp_server.auth.principal import Principal
from mcp_server.bus import ToolSpec
from mcp_server.llm import Model
from mcp_server.llm.script_file import load_turns
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.operation import Operations
from mcp_server.runs.context import Work
from mcp_server.runs.intervals import Timing
from mcp_server.runs.worker import Worker, open_worker
from mcp_server.services.agent_work import AgentWork
from mcp_server.services.agents import AgentService
from mcp_server.services.kv import KvService
from mcp_server.services.run_engine import open_runs, run_stores
from mcp_server.services.runs import RunService
from mcp_server.storage.sql.wake import Wake

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

    def repeatable(self, name: str) -> bool:
        del name
        return True


class World:
    """One process: its runs, and what a test may change under them."""

    worker: Worker

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

    def toolbox_for(self, principal: Principal, definition: AgentDefinition) -> Toolbox:
        return KvToolbox(self.kv, principal, definition.tools)

    @asynccontextmanager
    async def open(
        self,
        concurrency: int = 8,
        timing: Timing | None = None,
        works: Mapping[str, Work] | None = None,
    ) -> AsyncGenerator[RunService]:
        """Open what a process has of its own: its wake-ups, its followers and its worker.

        Wake-ups do not reach other processes here; they find out by looking.
        """
        wake = Wake()
        stores = run_stores(self.control, self.control)
        own: dict[str, Work] = {}
        async with (
            open_runs(self.operations, self.control, stores, wake) as runs,
            open_worker(
                stores,
                own,
                wake,
                concurrency=concurrency,
                timing=timing,
                idling=runs.idling,
            ) as self.worker,
        ):
            own["agent"] = AgentWork(
                self.model_for,
                self.toolbox_for,
                self.scopes_now,
                lambda run, after: stores.events.read(run, after, 100),
                runs,
            )
            own |= works or {}
            yield runs

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


async def reached(
    runs: RunService, principal: Principal, run: str, status: str = "running"
) -> None:
    """Wait until a run has come to a status."""
    with anyio.fail_after(20):
        async with aclosing(runs.follow(principal, run)) as events:
            async for event in events:
                if event["type"] == "status" and event["status"] == status:
                    return
    raise AssertionError(f"it ended without being {status}")
