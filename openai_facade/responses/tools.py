"""The tools of one response: gathered from its request, and called for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from mcp_server.agents.events import ToolOutcome
from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus
from mcp_server.errors import AppError, Timeout, Unavailable
from mcp_server.services.outside_tools import OutsideServer, OutsideTool, OutsideTools
from openai_facade.responses.file_search import FileSearch
from openai_facade.translate.mcp_opt_in import LABEL
from openai_facade.translate.response_calls import CallKind
from openai_facade.translate.response_messages import model_name
from openai_facade.translate.response_object import Item
from openai_facade.translate.response_request import (
    chosen_functions,
    custom_spec,
    function_spec,
)
from openai_facade.translate.response_search import FUNCTION, SPEC, Sources
from openai_facade.translate.response_servers import (
    Listed,
    allowed_tools,
    listing,
    needs_approval,
)
from openai_facade.wire.faults import unsupported

Found = Callable[[list[Item]], None]


@dataclass(slots=True)
class ToolSet:
    """What a model may call. `calls` says for each function what its call becomes.

    `shown` are the specs of those that end the turn, `made` of those that this server makes itself;
    `listings` are what servers list that the context does not list already, `not_listed` why one could
    not list; `outside` are the servers elsewhere by their labels.
    """

    calls: dict[str, CallKind] = field(default_factory=dict[str, CallKind])
    shown: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    made: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    outside: dict[str, OutsideServer] = field(default_factory=dict[str, OutsideServer])
    listings: list[tuple[str, list[dict[str, Any]]]] = field(
        default_factory=list[tuple[str, list[dict[str, Any]]]]
    )
    not_listed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    search: Mapping[str, Any] | None = None
    choice: object = None

    @property
    def of_client(self) -> frozenset[str]:
        """The functions whose calls are not for this server to make: not yet, or not at all."""
        return frozenset(name for name, call in self.calls.items() if not call.on_server)

    def add(self, name: str, call: CallKind, spec: dict[str, Any]) -> None:
        """Take a function in; the first one of a name hides the others."""
        if name not in self.calls:
            self.calls[name] = call
            (self.made if call.on_server else self.shown).append(spec)

    def keep(self, names: frozenset[str]) -> None:
        """Take out all functions but these."""
        self.calls = {name: call for name, call in self.calls.items() if name in names}
        for specs in (self.shown, self.made):
            specs[:] = [spec for spec in specs if spec["function"]["name"] in names]


async def gather_tools(
    bus: Bus,
    outside: OutsideTools | None,
    principal: Principal,
    body: Mapping[str, Any],
    context: Sequence[Item],
) -> ToolSet:
    """Give the tools of a checked body; those of the client come first, and hide others.

    With `outside` none, servers elsewhere are left out.

    Raises:
        InvalidRequest: an unknown server, a tool that is not there, or a choice of one.
        InvalidInput: a server's URL may not be reached.
    """
    tools = ToolSet()
    asked = cast("list[dict[str, Any]]", body.get("tools") or [])
    for tool in asked:
        if tool["type"] in {"function", "custom"}:
            spec = function_spec(tool) if tool["type"] == "function" else custom_spec(tool)
            tools.add(tool["name"], CallKind(tool["type"]), spec)
    listed = {
        item["server_label"]: item["tools"] for item in context if item["type"] == "mcp_list_tools"
    }
    for index, tool in enumerate(asked):
        if tool["type"] == "mcp":
            place = f"tools[{index}]"
            server = _server(place, tool)
            if server is None or (outside is not None and outside.is_own(server)):
                there: Sequence[Listed] | None = await bus.list_tools(principal)
            else:
                there = await _listed(tools, outside, principal, tool, server, listed)
            if there is not None:
                seen = allowed_tools(place, tool, there)
                _add_server(tools, tool, seen, known=tool["server_label"] in listed)
        elif tool["type"] == "file_search":
            tools.search = tool
            tools.add(FUNCTION, CallKind("search"), SPEC)
    tools.choice, names = chosen_functions(body.get("tool_choice"), tools.calls)
    if names is not None:
        tools.keep(names)
    return tools


def _server(place: str, tool: Mapping[str, Any]) -> OutsideServer | None:
    """Give the server elsewhere that an `mcp` tool names; None for this one."""
    url = tool.get("server_url")
    if (url is None) != (tool["server_label"] == LABEL):
        raise unsupported(
            f"{place}.server_label",
            f"{LABEL!r} is this server, without a server_url; another one needs its server_url.",
        )
    if url is None:
        return None
    headers = dict(tool.get("headers") or {})
    if tool.get("authorization") is not None:
        headers["Authorization"] = f"Bearer {tool['authorization']}"
    return OutsideServer(url, headers)


async def _listed(
    tools: ToolSet,
    outside: OutsideTools | None,
    principal: Principal,
    tool: Mapping[str, Any],
    server: OutsideServer,
    known: Mapping[str, list[dict[str, Any]]],
) -> Sequence[Listed] | None:
    """Give the tools of a server elsewhere, as the context lists them or as it does now."""
    if outside is None:
        return None
    label = tool["server_label"]
    tools.outside[label] = server
    if label in known:
        return [_outside_tool(each) for each in known[label]]
    try:
        return await outside.list(principal, server)
    except (Unavailable, Timeout) as error:
        tools.not_listed.append((label, error.message))
        return None


def _outside_tool(listed: Mapping[str, Any]) -> OutsideTool:
    hints: Mapping[str, Any] = listed.get("annotations") or {}
    return OutsideTool(
        listed["name"],
        listed.get("description") or "",
        listed.get("input_schema") or {"type": "object"},
        hints.get("readOnlyHint") is True,
    )


def _add_server(
    tools: ToolSet, tool: Mapping[str, Any], seen: Sequence[Listed], *, known: bool
) -> None:
    label: str = tool["server_label"]
    for each in seen:
        name = model_name(label, each.name)
        kind = "approval" if needs_approval(tool, each) else "mcp"
        function = {
            "name": name,
            "description": each.description,
            "parameters": each.input_schema,
        }
        tools.add(
            name, CallKind(kind, label, each.name), {"type": "function", "function": function}
        )
    if not known:
        tools.listings.append((label, listing(seen)))


class ResponseToolbox:
    """Makes the calls of one response: tools over the bus, searches, at most `most_calls` of them.

    `made` are those that earlier attempts made.
    """

    def __init__(
        self,
        bus: Bus,
        outside: OutsideTools,
        principal: Principal,
        tools: ToolSet,
        sources: Sources,
        found: Found,
        most_calls: int | None,
        *,
        made: int = 0,
    ) -> None:
        self._bus = bus
        self._outside = outside
        self._principal = principal
        self._tools = tools
        self._search = None
        if tools.search is not None:
            self._search = FileSearch(bus, principal, tools.search, sources, found)
        self._most_calls = most_calls
        self._made = made

    async def specs(self) -> list[dict[str, Any]]:
        """Give those functions that the server runs by itself."""
        return self._tools.made

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        """Make a call, also one of those that a person had to allow.

        Raises:
            AppError: the tool could not be called at all.
        """
        call = self._tools.calls.get(name)
        if call is None:
            return ToolOutcome(f"not_found: there is no tool {name[:80]!r} here", is_error=True)
        if self._most_calls is not None and self._made >= self._most_calls:
            return ToolOutcome(
                f"limit_exceeded: max_tool_calls ({self._most_calls}) is used up; answer without tools",
                is_error=True,
            )
        self._made += 1
        if call.kind == "search" and self._search is not None:
            return await self._search.search(arguments, key=key)
        server = self._tools.outside.get(call.label)
        if server is not None:
            told = await self._outside.call(self._principal, server, call.tool, arguments)
            return ToolOutcome(told.text, told.is_error)
        result = await self._bus.call(self._principal, call.tool, arguments, key, by_model=True)
        return ToolOutcome(result.text, result.is_error)

    async def attempt(
        self, name: str, arguments: dict[str, Any], *, key: str | None
    ) -> ToolOutcome:
        """Make a call whose failure, too, is for the model to read."""
        try:
            return await self.call(name, arguments, key=key)
        except AppError as error:
            return ToolOutcome(str(error), is_error=True)

    def repeatable(self, name: str) -> bool:
        """Tell whether a call made twice with one key takes effect once."""
        call = self._tools.calls.get(name)
        if call is None or call.kind == "search":
            return True
        return call.label not in self._tools.outside and self._bus.is_repeatable(call.tool)
