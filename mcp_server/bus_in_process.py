"""The bus's link to the server of its own process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.server.runner import serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.message import MessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.version import LATEST_MODERN_VERSION

from mcp_server import __version__, policy
from mcp_server.agent_faces import AgentTool
from mcp_server.auth.principal import Principal, acting_as
from mcp_server.bus import ProgressFn, ToolSpec
from mcp_server.bus_errors import app_error
from mcp_server.invocation import Invocation, invoking
from mcp_server.policy import Verb
from mcp_server.server import IsthmusServer
from mcp_server.tool import DeclaredTool

_CLIENT = {"name": "isthmus-bus", "version": __version__}
_META = {
    PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
    CLIENT_INFO_META_KEY: _CLIENT,
    CLIENT_CAPABILITIES_META_KEY: dict[str, Any](),
}
_TRANSPORT = TransportContext(kind="in-process", can_send_request=False)


class InProcess:
    """Serves each request as a client's would be, without a transport."""

    def __init__(self, server: IsthmusServer) -> None:
        self._server = server
        self._specs: list[tuple[ToolSpec, Verb]] = [
            (_spec(tool), tool.verb) for tool in server.declared_tools.values()
        ]

    async def tools(self, principal: Principal) -> list[ToolSpec]:
        """Return the tools that `principal` may call, in the order of their names.

        Raises:
            Unavailable: the agents among them cannot be known now.
        """
        declared = [
            spec
            for spec, verb in self._specs
            if policy.allows(principal, verb, f"tool://{spec.name}")
        ]
        agents = [_agent_spec(tool) for tool in await self._server.agent_tools(principal)]
        return sorted([*declared, *agents], key=lambda spec: spec.name)

    def is_repeatable(self, tool: str) -> bool:
        """Tell whether two calls with one key take effect once; one not there has no effect."""
        declared = self._server.declared_tools.get(tool)
        return declared is None or (declared.idempotent and not declared.egress)

    async def request(
        self,
        principal: Principal,
        method: str,
        params: dict[str, Any],
        invocation: Invocation,
        progress: ProgressFn | None = None,
    ) -> dict[str, Any]:
        """Serve one request."""
        meta: dict[str, Any] = _META if progress is None else {**_META, "progressToken": 0}
        connection = Connection.from_envelope(
            LATEST_MODERN_VERSION, _CLIENT, _META[CLIENT_CAPABILITIES_META_KEY]
        )
        with acting_as(principal), invoking(invocation):
            try:
                return await serve_one(
                    self._server._lowlevel_server,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the SDK has no public door for it
                    _Dispatch(progress),
                    method,
                    {**params, "_meta": meta},
                    connection=connection,
                    lifespan_state={},
                )
            except MCPError as error:
                raise app_error(error) from error


@dataclass(slots=True)
class _Dispatch:
    """The SDK's dispatch context of a call without a wire: progress goes to a function."""

    on_progress: ProgressFn | None
    transport: TransportContext = _TRANSPORT
    request_id: int = 0
    message_metadata: MessageMetadata = None
    can_send_request: bool = False
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        del params, opts
        raise NoBackChannelError(method)

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """Drop it: nobody listens for notifications inside the process."""

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        if self.on_progress is not None:
            await self.on_progress(progress, total, message)


def _spec(tool: DeclaredTool) -> ToolSpec:
    read_only = bool(tool.annotations and tool.annotations.read_only_hint)
    return ToolSpec(
        tool.name, tool.description, tool.parameters, read_only, tool.egress, tool.preview
    )


def _agent_spec(tool: AgentTool) -> ToolSpec:
    return ToolSpec(
        tool.name, tool.description, tool.parameters, read_only=False, egress=tool.egress
    )
