"""The tools of this server for one chat: listed and called over the bus with the caller's rights."""

from __future__ import annotations

from typing import Any

from mcp_server.agents.events import ToolOutcome
from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus, ToolSpec
from openai_facade.translate.mcp_opt_in import ToolSelection
from openai_facade.translate.tool_names import function_name


class ChatToolbox:
    """What a chat opted into; a model knows the tools by function names that OpenAI allows."""

    def __init__(self, bus: Bus, principal: Principal, specs: list[ToolSpec]) -> None:
        self._bus = bus
        self._principal = principal
        self._specs = {function_name(spec.name): spec for spec in specs}

    def tool_name(self, function: str) -> str:
        """Give the MCP name of a function; a name that is none of ours stays as it is."""
        spec = self._specs.get(function)
        return function if spec is None else spec.name

    async def specs(self) -> list[dict[str, Any]]:
        """Give OpenAI tool objects."""
        return [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": spec.description,
                    "parameters": spec.input_schema,
                },
            }
            for name, spec in self._specs.items()
        ]

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        """Call a tool by its function name.

        Raises:
            AppError: the tool could not be called at all.
        """
        result = await self._bus.call(self._principal, self.tool_name(name), arguments, key)
        return ToolOutcome(result.text, result.is_error)


async def open_toolbox(bus: Bus, principal: Principal, selection: ToolSelection) -> ChatToolbox:
    """List what the caller may use and keep what it selected.

    Raises:
        InvalidRequest: the selection names a tool that the caller does not have.
    """
    listed = await bus.list_tools(principal)
    selection.require_known(spec.name for spec in listed)
    return ChatToolbox(
        bus, principal, [spec for spec in listed if selection.admits(spec.name, spec.read_only)]
    )
