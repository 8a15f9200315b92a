"""The tools of this server as a run sees them: those its agent names, as the principal it acts for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp_server.agents.events import ToolOutcome
from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus


class BusToolbox:
    """Lists and calls over the bus; a tool that the agent does not name does not exist for it."""

    def __init__(self, bus: Bus, principal: Principal, tools: Sequence[str]) -> None:
        self._bus = bus
        self._principal = principal
        self._names = frozenset(tools)

    async def specs(self) -> list[dict[str, Any]]:
        """Return OpenAI tool objects."""
        return [
            {
                "type": "function",
                "function": {
                    "name": spec.name,
                    "description": spec.description,
                    "parameters": spec.input_schema,
                },
            }
            for spec in await self._bus.list_tools(self._principal)
            if spec.name in self._names
        ]

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        """Call one tool.

        Raises:
            AppError: the tool could not be called at all.
        """
        if name not in self._names:
            return ToolOutcome(f"not_found: this agent has no tool {name!r}", is_error=True)
        result = await self._bus.call(self._principal, name, arguments, key)
        return ToolOutcome(result.text, result.is_error)
