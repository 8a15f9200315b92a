"""One body over every door: each tool and resource answers the same, in success and in error."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcp_server.auth.principal import OWNER, acting_as
from tests.doors.grid import asking
from tests.doors.live import DOORS, Answer, BusDoor, Door, Live, open_door, open_live
from tests.doors.rows import RESOURCES, TOOLS, VOLATILE, ResourceRow, Row, Step


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "every-door") as live:
        yield live


@pytest.fixture(scope="module")
async def run_id(live: Live) -> str:
    bus = BusDoor(live)
    await bus.call("agent_save", {"name": "door-run", "instructions": "x", "tools": ["kv_list"]})
    done = await bus.call(
        "agent_run", {"agent": "door-run", "input": '{"tool": "kv_list", "arguments": {}}'}
    )
    assert done.structured["status"] == "completed", done
    return done.structured["run"]


async def prepare(live: Live, steps: tuple[Step, ...]) -> None:
    for tool, arguments in steps:
        done = await BusDoor(live).call(tool, arguments)
        assert not done.is_error, done.text


def filled(value: Any, run_id: str) -> Any:
    return json.loads(json.dumps(value).replace("$run", run_id))


def steady(value: Any) -> Any:
    """Cut what differs from call to call by nature."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in VOLATILE}
    return [steady(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", DOORS)
async def test_every_tool_answers_the_same(live: Live, run_id: str, name: str) -> None:
    async with open_door(live, name) as door:
        for tool, row in TOOLS.items():
            await prepare(live, row.before)
            await check_tool(live, door, tool, row, run_id)


async def check_tool(live: Live, door: Door, tool: str, row: Row, run_id: str) -> None:
    arguments = filled(row.arguments, run_id)
    async with asking(live, OWNER, arguments) as given:
        reference = await BusDoor(live).call(tool, given)
    async with asking(live, OWNER, arguments) as given:
        answer = await door.call(tool, given)
    assert not answer.is_error, (tool, answer.text)
    assert json.loads(answer.text) == answer.structured, tool
    assert steady(answer.structured) == steady(reference.structured), tool
    assert answer.structured.items() >= row.expect.items(), (tool, answer.structured)

    change, pattern = row.error
    failed = await door.call(tool, arguments | filled(change, run_id))
    assert failed.is_error, (tool, failed)
    assert re.search(pattern, failed.text), (tool, failed.text)
    assert failed == Answer(failed.text, None, is_error=True)
    again = await BusDoor(live).call(tool, arguments | filled(change, run_id))
    assert numberless(again.text) == numberless(failed.text), tool


def numberless(text: str) -> str:
    return re.sub(r"[0-9]+", "#", text)


@pytest.mark.parametrize("name", [name for name in DOORS if name != "chat"])
async def test_every_resource_shows_the_same(live: Live, run_id: str, name: str) -> None:
    async with open_door(live, name) as door:
        for row in RESOURCES.values():
            await prepare(live, row.before)
            await check_resource(live, door, row, run_id)


async def check_resource(live: Live, door: Door, row: ResourceRow, run_id: str) -> None:
    uri = filled(row.uri, run_id)
    shown = await door.read(uri)
    assert not shown.is_error, (uri, shown.text)
    assert shown.structured == row.mime_type, uri
    assert row.contains in shown.text, (uri, shown.text)
    assert steady_text(shown) == steady_text(await BusDoor(live).read(uri)), uri
    missing = await door.read(row.absent)
    assert missing.is_error, row.absent
    assert missing.text.startswith("not_found: "), missing.text


def steady_text(answer: Answer) -> Any:
    return steady(json.loads(answer.text)) if answer.structured == "application/json" else answer


async def test_a_new_tool_or_resource_needs_a_row(live: Live) -> None:
    with acting_as(OWNER):
        tools = {tool.name for tool in await live.runtime.server.list_tools()}
        templates = {
            item.uri_template for item in await live.runtime.server.list_resource_templates()
        }
    assert tools == set(TOOLS)
    assert templates == set(RESOURCES)


@pytest.mark.parametrize("name", DOORS)
async def test_what_does_not_exist_is_named_at_every_door(live: Live, name: str) -> None:
    from mcp.shared.exceptions import MCPError

    async with open_door(live, name) as door:
        if name == "chat":
            return  # a chat names its tools when it opts in: tested with the OpenAI door
        try:
            answer = await door.call("no_such_tool", {})
        except MCPError as error:
            assert (error.error.code, error.error.message) == (-32602, "Unknown tool: no_such_tool")
        else:
            assert name in {"bus", "bus-http"}
            assert answer.text == "not_found: Unknown tool: no_such_tool"
        missing = await door.read("nothing://here")
        assert missing.is_error
