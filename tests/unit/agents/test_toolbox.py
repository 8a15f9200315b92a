"""Which calls of a toolbox over the bus may be made twice."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mcp.server.subscriptions import InMemorySubscriptionBus

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.audit import Audit
from mcp_server.auth.principal import OWNER
from mcp_server.bus import Bus
from mcp_server.bus_in_process import InProcess
from mcp_server.declarations import declare
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.plugins import load_plugins
from mcp_server.server import IsthmusServer
from mcp_server.services.grants import Grant, GrantedToolbox
from mcp_server.toolbox import agent_toolbox

TOOLS = """
from mcp_server.plugins import tool

@tool()
async def heeds_its_key() -> str:
    "Do it once."

@tool(idempotent=False)
async def heeds_no_key() -> str:
    "Do it each time."

@tool(name="sends.out", egress=True)
async def sends_out() -> str:
    "Nobody knows what happens there."
"""


class NoAgents:
    """The agents of a tenant that shows none as a tool."""

    async def shown(self, *_: Any) -> list[Any]:
        return []


async def test_a_call_is_made_twice_only_if_its_tool_heeds_the_key(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "own.py").write_text(TOOLS)
    services: Any = SimpleNamespace(agents=NoAgents())
    operations = Operations(Limits(), Audit())
    plugins = declare(load_plugins((tmp_path,)))
    server = IsthmusServer(
        plugins, services, operations, secret=bytes(32), bus=InMemorySubscriptionBus()
    )
    bus = Bus(InProcess(server))
    names = ("heeds_its_key", "heeds_no_key", "sends.out", "kv_set")

    async def scopes_now(_: Any) -> frozenset[str]:
        return OWNER.scopes

    toolbox = GrantedToolbox(
        Grant(OWNER, scopes_now),
        AgentDefinition(name="a", instructions="", tools=names),
        lambda principal, definition: agent_toolbox(bus, principal, definition),
    )
    functions = [spec["function"]["name"] for spec in await toolbox.specs()]
    assert {name: toolbox.repeatable(name) for name in functions} == {
        "heeds_its_key": True,
        "heeds_no_key": False,
        next(name for name in functions if name.startswith("sends_out_")): False,
        "kv_set": True,
    }
    assert toolbox.repeatable("not there")
