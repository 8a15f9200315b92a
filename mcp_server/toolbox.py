"""The tools of this server as a model sees them: some of the bus, called as one principal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mcp_server.agents.events import ToolOutcome
from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus
from mcp_server.bus_errors import told_error
from mcp_server.errors import Forbidden, NotFound
from mcp_server.function_names import function_name


class BusToolbox:
    """Lists and calls over the bus; a tool that is not among the named ones does not exist here.

    A model knows the tools by function names that OpenAI allows.
    """

    def __init__(self, bus: Bus, principal: Principal, tools: Iterable[str]) -> None:
        self._bus = bus
        self._principal = principal
        self._tools = {function_name(name): name for name in tools}

    def tool_name(self, function: str) -> str:
        """Give the MCP name of a function; a name that is none of ours stays as it is."""
        return self._tools.get(function, function)

    async def specs(self) -> list[dict[str, Any]]:
        """Give OpenAI tool objects of those tools that the principal may call now."""
        return [
            {
                "type": "function",
                "function": {
                    "name": function_name(spec.name),
                    "description": spec.description,
                    "parameters": spec.input_schema,
                },
            }
            for spec in await self._bus.list_tools(self._principal)
            if function_name(spec.name) in self._tools
        ]

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        """Call a tool by its function name.

        Raises:
            AppError: the tool could not be called at all.
        """
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            return ToolOutcome(
                f"not_found: there is no tool {name!r} here; there are: {known}", is_error=True
            )
        result = await self._bus.call(self._principal, tool, arguments, key, by_model=True)
        return ToolOutcome(result.text, result.is_error)

    async def preview(self, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Tell what a call would do, see `Previewing`.

        Raises:
            AppError: it cannot be told now, or this principal may not see it.
        """
        specs = {spec.name: spec for spec in await self._bus.list_tools(self._principal)}
        tool = self._tools.get(name, "")
        how = specs[tool].preview if tool in specs else None
        if how is None or any(arguments.get(item) is not None for item in how.unless):
            return None
        if how.tool is None:
            given = {**arguments, **how.given}
        elif how.tool in specs and specs[how.tool].read_only:
            given = {item: arguments[item] for item in how.same if item in arguments}
        else:
            raise Forbidden(f"the run may not call {how.tool}, which shows what is there")
        result = await self._bus.call(self._principal, how.tool or tool, given)
        shows = "change" if how.tool is None else "current"
        if not result.is_error:
            return {"shows": shows, "result": result.structured}
        error = told_error(result.text)
        if how.tool is not None and isinstance(error, NotFound):
            return {"shows": shows, "result": None}
        raise error

    def repeatable(self, name: str) -> bool:
        """Tell whether a call made twice with one key takes effect once; a tool unknown here has none."""
        return self._bus.is_repeatable(self._tools.get(name, name))
