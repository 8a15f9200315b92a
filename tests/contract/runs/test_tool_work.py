"""Long tools: a durable run behind each call, the same result as inline, and what a resumed one does again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from mcp.server.subscriptions import InMemorySubscriptionBus
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.keys import KeyService
from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus, ToolResult
from mcp_server.bus_in_process import InProcess
from mcp_server.declarations import declare
from mcp_server.errors import Unauthenticated
from mcp_server.plugins import load_plugins
from mcp_server.runs import in_doubt
from mcp_server.runs.context import RunContext, Work
from mcp_server.runs.intervals import Timing
from mcp_server.runs.record import Outcome
from mcp_server.server import IsthmusServer
from mcp_server.services import Services
from mcp_server.services.kv import KvService
from mcp_server.services.run_results import TOOL_KIND
from mcp_server.services.runs import RunService
from mcp_server.services.tool_work import ToolWork
from tests.contract.runs.world import World, ended, reached

PLUGIN = '''
import asyncio
from typing import Any
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ImageContent, TextContent
from typing_extensions import TypedDict
from mcp_server.errors import NotFound, Unavailable
from mcp_server.plugins import Call, tool

calls = []
gate = asyncio.Event()


class Total(TypedDict):
    total: int


@tool(long=True)
async def add(call: Call, a: int, b: int) -> Total:
    """Add."""
    for done in (1, 2, 3):
        await call.progress(done, 3, f"at {done}")
    return {"total": a + b}


@tool()
async def add_inline(call: Call, a: int, b: int) -> Total:
    """Add."""
    return {"total": a + b}


@tool(long=True)
async def picture() -> CallToolResult:
    """Show."""
    return CallToolResult(content=[
        TextContent(type="text", text="a dot"),
        ImageContent(type="image", data="AAEC", mime_type="image/png"),
    ])


@tool(long=True)
async def fail(how: str) -> str:
    """Fail."""
    calls.append(how)
    if how == "known":
        raise NotFound("it is not there")
    if how == "away":
        raise Unavailable("not now")
    if how == "protocol":
        raise MCPError(code=-32001, message="wrong")
    raise KeyError("secret")


@tool(long=True)
async def huge(size: int) -> str:
    """Answer at length."""
    return "x\\0\\ud800"[:2] + "x" * size


@tool(long=True)
async def forever(call: Call) -> str:
    """Never end."""
    calls.append("forever")
    await call.services.kv.set(call.principal, "default", "forever", 1)
    await asyncio.Event().wait()
    return ""


@tool(long=True)
async def trip(call: Call, where: str) -> str:
    """Ask twice, with a step between."""
    calls.append("trip")
    price = await call.step("price", lambda key: look_up(call, key))
    if not (await call.ask(f"{where} for {price}?", kind="approval"))["approved"]:
        return "declined"
    seats = await call.ask("how many seats?", {"type": "integer"})
    return f"{seats} to {where} for {price}"


async def look_up(call: Call, key):
    calls.append(key.rpartition("@")[0])
    return 7


@tool(long=True)
async def write(call: Call) -> str:
    """Write with the call's key, then wait for the gate."""
    item = await call.services.kv.set(
        call.principal, "default", "once", len(calls) + 1, idempotency_key=call.key
    )
    calls.append("write")
    await gate.wait()
    return str(item["value"])


@tool(long=True, idempotent=False)
async def careful(call: Call) -> str:
    """Do something that must not be done twice."""
    calls.append("careful")
    await gate.wait()
    return "done"


@tool(long=True, idempotent=False, unsure="retry")
async def careless(call: Call) -> str:
    """Do something that may be done twice if nobody knows."""
    calls.append("careless")
    await gate.wait()
    return "done"


@tool(long=True, idempotent=False)
async def careful_asking(call: Call) -> str:
    """Ask before it does."""
    answer = await call.ask("really?")
    calls.append("careful_asking")
    return answer


@tool()
async def short(call: Call) -> str:
    """Ask though it is not long."""
    return await call.ask("what?")
'''


class Tools:
    """A server with the plugin above, and processes that work for it."""

    def __init__(self, world: World, plugin: Path, control: AsyncEngine) -> None:
        self.world = world
        self.keys = KeyService(control)
        self.services = SimpleNamespace(kv=KvService(world.operations, control))
        plugins = load_plugins((plugin,))
        self.module = __import__("sys").modules[
            next(item.fn.__module__ for item in plugins.tools if item.name == "add")
        ]
        self.server = IsthmusServer(
            declare(plugins),
            cast("Services", self.services),
            world.operations,
            secret=bytes(32),
            bus=InMemorySubscriptionBus(),
        )
        self.bus = Bus(InProcess(self.server))

    @property
    def calls(self) -> list[str]:
        return self.module.calls

    def works(self) -> dict[str, Work]:
        return {
            f"{TOOL_KIND}{tool.name}": ToolWork(
                tool.name, tool.idempotent, tool.retry_unsure, self.bus.work, self.keys.scopes_now
            )
            for tool in self.server.declared_tools.values()
            if tool.long
        }

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[RunService]:
        async with self.world.open(works=self.works(), **options) as runs:
            self.services.runs = runs
            yield runs


@pytest.fixture
def tools(world: World, tmp_path: Path, control: AsyncEngine) -> Tools:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "long.py").write_text(PLUGIN, encoding="utf-8")
    return Tools(world, tmp_path, control)


@pytest.fixture
async def runs(tools: Tools) -> AsyncIterator[RunService]:
    async with tools.open() as runs:
        yield runs


async def newest(runs: RunService, principal: Principal) -> dict[str, Any]:
    page = await runs.list(principal, limit=1)
    return dict(await runs.get(principal, page["items"][0]["run"]))


async def test_a_long_tool_answers_as_if_it_had_run_inline(
    tools: Tools, runs: RunService, principal: Principal
) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    arguments = {"a": 2, "b": 3}
    answer = await tools.bus.call(principal, "add", arguments, progress=note)
    assert answer == await tools.bus.call(principal, "add_inline", arguments)
    # Of what comes at once the newest is told.
    assert told == sorted(told)
    assert told[-1] == (3, 3, "at 3")
    run = await newest(runs, principal)
    assert (run["kind"], run["tool"], run["status"]) == ("tool", "add", "completed")
    assert run["output"] == {
        "text": '{"total":5}',
        "structured": {"total": 5},
        "is_error": False,
    }
    events = await ended(runs, principal, run["run"])
    assert [event["done"] for event in events if event["type"] == "progress"][-1] == 3
    shown = await tools.bus.call(principal, "picture", {})
    assert [item["type"] for item in shown.content] == ["text", "image"]
    assert (shown.text, shown.content[1]["data"]) == ("a dot", "AAEC")


@pytest.mark.parametrize(
    ("how", "told", "status"),
    [
        ("known", "not_found: it is not there", "completed"),
        ("away", "unavailable: not now", "completed"),
        ("defect", "unavailable: fail failed unexpectedly; the server's log says why", "completed"),
        ("protocol", "unavailable: wrong", "failed"),
    ],
)
async def test_a_failing_long_tool_tells_what_it_would_tell_inline(
    tools: Tools, runs: RunService, principal: Principal, how: str, told: str, status: str
) -> None:
    answer = await tools.bus.call(principal, "fail", {"how": how})
    assert (answer.is_error, answer.text) == (True, told)
    assert (await newest(runs, principal))["status"] == status


async def test_wrong_arguments_start_no_run(
    tools: Tools, runs: RunService, principal: Principal
) -> None:
    wrong: list[dict[str, Any]] = [{"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": "\ud800", "b": 1}]
    for arguments in wrong:
        answer = await tools.bus.call(principal, "add", arguments)
        assert answer.is_error
        assert answer.text.startswith("invalid_input: ")
    assert (await runs.list(principal))["items"] == []


async def test_a_result_that_is_too_big_is_an_error_that_says_so(
    tools: Tools, runs: RunService, principal: Principal
) -> None:
    whole = await tools.bus.call(principal, "huge", {"size": 100_000})
    assert (whole.is_error, len(whole.text)) == (False, 100_002)
    answer = await tools.bus.call(principal, "huge", {"size": 20_000_000})
    assert answer.is_error
    assert answer.text.startswith("limit_exceeded: the result has 40000")
    assert len(answer.text) < 2000


async def test_a_caller_that_leaves_cancels_the_run(
    tools: Tools, runs: RunService, principal: Principal
) -> None:
    calling = asyncio.create_task(tools.bus.call(principal, "forever", {}))
    await called(tools, "forever")
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert (await newest(runs, principal))["status"] == "cancelled"


async def test_a_deadline_that_passes_cancels_the_run(
    tools: Tools, runs: RunService, principal: Principal
) -> None:
    deadline = asyncio.get_running_loop().time() + 1.0
    answer = await tools.bus.call(principal, "forever", {}, deadline=deadline)
    assert answer.is_error
    run = await newest(runs, principal)
    assert run["status"] == "cancelled"
    assert answer.text == (
        f"timeout: the deadline passed before the end of run {run['run']}, which is cancelled"
    )


async def called(tools: Tools, name: str) -> None:
    with anyio.fail_after(20):
        while name not in tools.calls:
            await anyio.sleep(0.01)


async def test_a_long_tool_asks_and_its_steps_are_done_once(
    tools: Tools, runs: RunService, principal: Principal
) -> None:
    answer = await tools.bus.call(principal, "trip", {"where": "Oslo"})
    run = (await newest(runs, principal))["run"]
    assert (answer.is_error, answer.text) == (
        True,
        f"conflict: run {run} waits for input: Oslo for 7?; answer it with run_input",
    )
    await runs.input(principal, run, {"approved": True})
    await until_asked(runs, principal, run, "how many seats?")
    await runs.input(principal, run, 2)
    await ended(runs, principal, run)
    assert (await runs.get(principal, run))["output"]["text"] == "2 to Oslo for 7"
    assert tools.calls == ["trip", f"{run}/step/price", "trip", "trip"]


async def until_asked(runs: RunService, principal: Principal, run: str, message: str) -> None:
    with anyio.fail_after(20):
        while ((await runs.get(principal, run))["request"] or {}).get("message") != message:
            await anyio.sleep(0.01)


async def test_only_a_long_tool_can_ask(
    tools: Tools, runs: RunService, principal: Principal
) -> None:
    answer = await tools.bus.call(principal, "short", {})
    assert answer.text == "conflict: only a tool declared with long=True can ask"
    assert (await runs.list(principal))["items"] == []


async def test_a_tool_works_with_grant_and_rights_of_that_moment(
    tools: Tools, runs: RunService, principal: Principal
) -> None:
    narrow = Principal(principal.tenant, "u", frozenset({"run"}))
    answer = await tools.bus.call(narrow, "write", {})
    assert answer.is_error
    assert answer.text.startswith("forbidden: ")
    key = await tools.keys.create("brief", tenant=principal.tenant)
    brief = await tools.keys.authenticate(key["key"])
    await tools.keys.revoke(key["id"])
    started = await runs.start_tool(brief, "add", {"a": 1, "b": 1})
    assert (await ended(runs, principal, started["run"]))[-1]["error"][
        "code"
    ] == Unauthenticated.code


@pytest.mark.parametrize(
    ("tool", "calls", "status", "told"),
    [
        ("write", 2, "completed", "1"),
        ("careless", 2, "completed", "done"),
        ("careful", 1, "failed", "unsure"),
    ],
)
async def test_what_a_resumed_tool_does_again_is_its_declarations_word(
    tools: Tools, principal: Principal, tool: str, calls: int, status: str, told: str
) -> None:
    async with tools.open() as runs:
        started = await runs.start_tool(principal, tool, {})
        await called(tools, tool)
    tools.module.gate.set()
    async with tools.open() as runs:
        await ended(runs, principal, started["run"])
        run = await runs.get(principal, started["run"])
    assert tools.calls == [tool] * calls
    assert run["status"] == status
    if status == "completed":
        assert run["output"]["text"] == told
    else:
        assert run["error"] is not None
        assert run["error"]["code"] == told


async def test_a_tool_that_must_not_be_called_twice_may_ask_first(
    tools: Tools, runs: RunService, principal: Principal
) -> None:
    started = await runs.start_tool(principal, "careful_asking", {})
    await reached(runs, principal, started["run"], "input_required")
    await runs.input(principal, started["run"], "yes")
    await ended(runs, principal, started["run"])
    assert (await runs.get(principal, started["run"]))["output"]["text"] == "yes"
    assert tools.calls == ["careful_asking"]


async def test_a_failure_that_passes_is_tried_again_as_often_as_the_run_may(
    tools: Tools, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_doubt, "PAUSES", (0.01,))  # each try of the run asks twice
    async with tools.open(timing=Timing(retry=0.01)) as runs:
        started = await runs.start_tool(principal, "fail", {"how": "away"}, retries=2)
        events = await ended(runs, principal, started["run"])
        run = await runs.get(principal, started["run"])
        for how in ("known", "defect"):
            again = await runs.start_tool(principal, "fail", {"how": how}, retries=2)
            await ended(runs, principal, again["run"])
    assert sum(event["type"] == "retry" for event in events) == 2
    assert (run["status"], run["retries"], run["dead_letter"]) == ("failed", 2, True)
    assert run["error"] == {"code": "unavailable", "message": "not now"}
    assert tools.calls.count("away") == 6
    assert tools.calls.count("known") == 1


async def test_a_run_whose_step_called_a_long_tool_finds_its_run_again(
    tools: Tools, runs: RunService, principal: Principal
) -> None:
    key = "run_" + "0" * 32 + "/call/1"
    answers: list[ToolResult] = [
        await tools.bus.call(principal, "add", {"a": 1, "b": 1}, key=key) for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert len((await runs.list(principal))["items"]) == 1


async def test_a_run_that_waits_for_its_own_runs_leaves_them_its_place(
    tools: Tools, principal: Principal
) -> None:
    async def parent(context: RunContext) -> Outcome:
        arguments = {"a": 1, "b": 1}
        answer = await tools.bus.call(principal, "add", arguments, key=context.key("add"))
        return Outcome(status="completed", output=answer.text)

    works = {**tools.works(), "tool/parent": parent}
    async with tools.world.open(concurrency=2, works=works) as runs:
        tools.services.runs = runs
        started = [(await runs.start_tool(principal, "parent", {}))["run"] for _ in range(4)]
        for run in started:
            await ended(runs, principal, run)
            assert (await runs.get(principal, run))["output"] == '{"total":2}'
