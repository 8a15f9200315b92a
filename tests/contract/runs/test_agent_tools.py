"""The agent and run tools and resources over the bus: an agent that uses this server's own tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mcp.server.subscriptions import InMemorySubscriptionBus
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus, ToolSpec
from mcp_server.bus_in_process import InProcess
from mcp_server.declarations import declare
from mcp_server.errors import NotFound
from mcp_server.llm.router import Router
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.operation import Operations
from mcp_server.plugins import load_plugins
from mcp_server.runs.context import Work
from mcp_server.runs.worker import open_worker
from mcp_server.server import IsthmusServer
from mcp_server.services import Services
from mcp_server.services.agent_work import AgentWork
from mcp_server.services.agents import AgentService
from mcp_server.services.kv import KvService
from mcp_server.services.run_engine import open_runs, run_stores
from mcp_server.storage.sql.wake import Wake
from mcp_server.toolbox import agent_toolbox


async def scopes_now(principal: Principal) -> frozenset[str]:
    return principal.scopes


@pytest.fixture
async def bus(operations: Operations, control: AsyncEngine) -> AsyncIterator[Bus]:
    late: list[Bus] = []
    router = Router([ScriptedModel()], default_model=None, announcement="")

    async def list_tools(principal: Principal) -> list[ToolSpec]:
        return await late[0].list_tools(principal)

    wake = Wake()
    stores = run_stores(control, control)
    works: dict[str, Work] = {}
    async with (
        open_runs(operations, control, stores, wake) as runs,
        open_worker(stores, works, wake),
    ):
        works["agent"] = AgentWork(
            router.resolve,
            lambda principal, definition: agent_toolbox(late[0], principal, definition),
            scopes_now,
            lambda run, after: stores.events.read(run, after, 100),
            runs,
        )
        services = SimpleNamespace(
            kv=KvService(operations, control),
            runs=runs,
            agents=AgentService(
                operations,
                control,
                models=router.models,
                tools=list_tools,
            ),
        )
        server = IsthmusServer(
            declare(load_plugins()),
            cast("Services", services),
            operations,
            secret=bytes(32),
            bus=InMemorySubscriptionBus(),
        )
        late.append(Bus(InProcess(server)))
        yield late[0]


async def call(bus: Bus, principal: Principal, tool: str, **arguments: Any) -> Any:
    result = await bus.call(principal, tool, arguments)
    assert not result.is_error, result.text
    assert json.loads(result.text) == result.structured
    return result.structured


async def read(bus: Bus, principal: Principal, uri: str) -> Any:
    [content] = await bus.read(principal, uri)
    assert content.mime_type == "application/json"
    return json.loads(content.text or "")


async def test_an_agent_uses_a_tool_of_this_server_and_every_face_shows_the_same(
    bus: Bus, principal: Principal
) -> None:
    saved = await call(
        bus, principal, "agent_save", name="keeper", instructions="Keep.", tools=["kv_set"]
    )
    assert saved["model"] == "default"
    assert await call(bus, principal, "agent_list") == {"items": [saved]}
    assert await read(bus, principal, "agent://keeper") == saved
    done = await call(bus, principal, "agent_run", agent="keeper", input="notes")
    assert list(done) == ["run", "status", "output", "error"]
    assert (done["status"], done["error"]) == ("completed", None)
    assert json.loads(done["output"])["key"] == "notes"
    assert (await call(bus, principal, "kv_get", key="notes"))["version"] >= 1
    got = await call(bus, principal, "run_get", run=done["run"])
    assert got == got | done
    record = await read(bus, principal, f"run://{done['run']}")
    assert record == got | {"events": record["events"], "first_event": 1}
    told = await call(bus, principal, "run_events", run=done["run"])
    assert told["items"] == record["events"]
    assert (told["next_after"], told["status"]) == (got["last_event"], "completed")
    listed = await call(bus, principal, "run_list", agent="keeper")
    large = {"output", "agent_version"}
    assert listed["items"] == [{name: got[name] for name in got if name not in large}]
    assert await call(bus, principal, "run_cancel", run=done["run"]) == got


async def test_waiting_for_an_agent_tells_its_progress(bus: Bus, principal: Principal) -> None:
    told: list[tuple[float, str | None]] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        assert total is None
        told.append((done, message))

    await call(bus, principal, "agent_save", name="a", instructions="", tools=["kv_list"])
    await bus.call(principal, "agent_run", {"agent": "a", "input": "x"}, progress=note)
    assert [message for _, message in told] == [
        *("queued", "running", "turn 1 finished", "turn 1: kv_list"),
        *("turn 2 finished", "completed"),
    ]
    assert [done for done, _ in told] == sorted({done for done, _ in told})


async def test_an_agent_may_run_another_one(bus: Bus, principal: Principal) -> None:
    await call(bus, principal, "agent_save", name="boss", instructions="", tools=["agent_run"])
    await call(bus, principal, "agent_save", name="echo", instructions="")
    done = await call(bus, principal, "agent_run", agent="boss", input="echo")
    inner = json.loads(done["output"])
    assert (inner["status"], inner["output"]) == ("completed", "echo")
    assert inner["run"] != done["run"]


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("agent_run", {"agent": "none", "input": "x"}, "not_found: agent 'none' does not exist"),
        ("agent_run", {"agent": "a/b", "input": "x"}, "invalid_input: name: 'a/b' holds a slash"),
        ("agent_run", {"agent": "a", "input": 5}, "invalid_input: input"),
        ("agent_run", {"agent": "a", "input": "x", "wait_seconds": -1}, "invalid_input: wait_"),
        ("agent_save", {"name": "a"}, "invalid_input: instructions: this argument is required"),
        ("agent_save", {"name": "a", "instructions": "", "tools": ["x"]}, "invalid_input: tools:"),
        ("agent_save", {"name": "a", "instructions": "", "limits": {"x": 1}}, "invalid_input: lim"),
        ("agent_save", {"name": "a", "instructions": "", "temper": 1}, "invalid_input: temper: "),
        ("run_get", {"run": "run_1"}, "not_found: run 'run_1' does not exist"),
        ("run_cancel", {"run": "\0"}, "not_found: run '\\x00' does not exist"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(
    bus: Bus, principal: Principal, tool: str, arguments: dict[str, Any], told: str
) -> None:
    result = await bus.call(principal, tool, arguments)
    assert result.is_error
    assert result.text.startswith(told)


async def test_foreign_resources_do_not_exist(
    bus: Bus, principal: Principal, stranger: Principal
) -> None:
    await call(bus, principal, "agent_save", name="mine", instructions="")
    done = await call(bus, principal, "agent_run", agent="mine", input="x")
    for uri in ("agent://mine", f"run://{done['run']}"):
        with pytest.raises(NotFound):
            await bus.read(stranger, uri)


async def test_a_deadline_before_the_wait_still_gives_the_runs_id(
    bus: Bus, principal: Principal
) -> None:
    await call(bus, principal, "agent_save", name="a", instructions="", limits={"turns": 1})
    deadline = asyncio.get_running_loop().time() + 0.3
    result = await bus.call(principal, "agent_run", {"agent": "a", "input": "x"}, deadline=deadline)
    assert result.structured is not None
    assert result.structured["run"].startswith("run_")


async def test_runs_of_three_versions_at_once_keep_each_its_own_and_a_pause_stops_new_ones_only(
    bus: Bus, principal: Principal
) -> None:
    waiting: dict[str, tuple[str, int]] = {}
    for tool in ("kv_list", "model_list", "agent_list"):
        more = {"tools": [tool], "approve": [tool]}
        saved = await call(bus, principal, "agent_save", name="v", instructions="", **more)
        begun = await call(bus, principal, "agent_run", agent="v", input="x", wait_seconds=30)
        assert begun["status"] == "input_required"
        waiting[tool] = (begun["run"], saved["version"])
    assert (await call(bus, principal, "agent_pause", name="v"))["paused"]
    refused = await bus.call(principal, "agent_run", {"agent": "v", "input": "x"})
    assert refused.is_error
    assert refused.text == "conflict: agent 'v' is paused; agent_resume lets new runs begin"
    for tool, (run, version) in waiting.items():
        await call(bus, principal, "run_input", run=run, answer={"approved": True})
        done = await _over(bus, principal, run)
        assert (done["status"], done["agent_version"]) == ("completed", version), done
        events = (await call(bus, principal, "run_events", run=run, limit=1000))["items"]
        assert [event["name"] for event in events if event["type"] == "tool_started"] == [tool]
    assert not (await call(bus, principal, "agent_resume", name="v"))["paused"]
    again = await call(bus, principal, "agent_run", agent="v", input="x")
    assert again["status"] == "input_required"
    assert await call(bus, principal, "agent_delete", name="v") == {"deleted": True}
    await call(bus, principal, "run_input", run=again["run"], answer={"approved": True})
    assert (await _over(bus, principal, again["run"]))["status"] == "completed"


async def _over(bus: Bus, principal: Principal, run: str) -> Any:
    async with asyncio.timeout(30):
        while (found := await call(bus, principal, "run_get", run=run))["ended_at"] is None:
            await asyncio.sleep(0.01)
    return found
