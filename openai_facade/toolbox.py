"""Opens the tools of this server that one chat opted into."""

from __future__ import annotations

from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus
from mcp_server.toolbox import BusToolbox
from openai_facade.translate.mcp_opt_in import ToolSelection


async def open_toolbox(bus: Bus, principal: Principal, selection: ToolSelection) -> BusToolbox:
    """List what the caller may use and keep what it selected.

    Raises:
        InvalidRequest: the selection names a tool that the caller does not have.
    """
    listed = await bus.list_tools(principal)
    selection.require_known(spec.name for spec in listed)
    return BusToolbox(
        bus,
        principal,
        [spec.name for spec in listed if selection.admits(spec.name, spec.read_only)],
    )
