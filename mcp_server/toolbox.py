"""The tools of this server as a model sees them: some of the bus, called as one principal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mcp_server.agents.events import ToolOutcome
from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus
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

    def repeatable(self, name: str) -> bool:
        """Tell whether a call made twice with one key takes effect once; a tool unknown here has none."""
        return self._bus.is_repeatable(self._tools.get(name, name))
