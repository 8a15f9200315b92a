"""The way from inside the process to a tool: the full MCP path, without a transport."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
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
    INVALID_PARAMS,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.version import LATEST_MODERN_VERSION

from mcp_server import __version__
from mcp_server.auth.principal import Principal, acting_as
from mcp_server.errors import InvalidInput, LimitExceeded, NotFound, Unavailable
from mcp_server.server import RATE_LIMITED, Invocation, IsthmusServer, invoking

ProgressFn = Callable[[float, float | None, str | None], Awaitable[None]]

_CLIENT = {"name": "isthmus-bus", "version": __version__}
_META = {
    PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
    CLIENT_INFO_META_KEY: _CLIENT,
    CLIENT_CAPABILITIES_META_KEY: dict[str, Any](),
}
_TRANSPORT = TransportContext(kind="in-process", can_send_request=False)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model or an agent needs to know it."""

    name: str
    description: str
    input_schema: dict[str, Any]
    read_only: bool
    egress: bool


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered: its text for a model, its structured value for a program."""

    text: str
    structured: Any | None
    is_error: bool
    content: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ResourceContent:
    """One content of a resource: `text` or base64 `blob`."""

    uri: str
    mime_type: str
    text: str | None
    blob: str | None


class Bus:
    """Calls tools and reads resources of a server in this process, as a given principal."""

    def __init__(self, server: IsthmusServer) -> None:
        self._server = server

    async def call(
        self,
        principal: Principal,
        tool: str,
        arguments: dict[str, Any],
        key: str | None = None,
        deadline: float | None = None,
        progress: ProgressFn | None = None,
    ) -> ToolResult:
        """Call a tool. `deadline` is in the event loop's time; `key` makes a repeated call harmless.

        Raises:
            NotFound: there is no such tool. LimitExceeded: the caller's rate is used up.
        """
        params = {"name": tool, "arguments": arguments}
        result = await self._request(principal, "tools/call", params, key, deadline, progress)
        content: list[dict[str, Any]] = result.get("content", [])
        text = "\n".join(item["text"] for item in content if item.get("type") == "text")
        return ToolResult(
            text, result.get("structuredContent"), bool(result.get("isError")), content
        )

    async def list_tools(self, principal: Principal) -> list[ToolSpec]:
        """Return the tools that `principal` may call, in the order of their names."""
        declared = self._server.declared_tools
        with acting_as(principal):
            tools = await self._server.list_tools()
        return [
            ToolSpec(
                tool.name,
                tool.description or "",
                tool.input_schema,
                bool(tool.annotations and tool.annotations.read_only_hint),
                declared[tool.name].egress,
            )
            for tool in tools
        ]

    async def read(self, principal: Principal, uri: str) -> list[ResourceContent]:
        """Read a resource.

        Raises:
            NotFound: there is no such resource.
        """
        result = await self._request(principal, "resources/read", {"uri": uri})
        return [
            ResourceContent(
                item["uri"], item.get("mimeType", "text/plain"), item.get("text"), item.get("blob")
            )
            for item in result["contents"]
        ]

    async def _request(
        self,
        principal: Principal,
        method: str,
        params: dict[str, Any],
        key: str | None = None,
        deadline: float | None = None,
        progress: ProgressFn | None = None,
    ) -> dict[str, Any]:
        meta: dict[str, Any] = _META if progress is None else {**_META, "progressToken": 0}
        connection = Connection.from_envelope(
            LATEST_MODERN_VERSION, _CLIENT, _META[CLIENT_CAPABILITIES_META_KEY]
        )
        with acting_as(principal), invoking(Invocation(key, deadline, metered=False)):
            try:
                return await serve_one(
                    self._server._lowlevel_server,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the SDK has no public door for it
                    _InProcess(progress),
                    method,
                    {**params, "_meta": meta},
                    connection=connection,
                    lifespan_state={},
                )
            except MCPError as error:
                raise _app_error(error) from error


@dataclass(slots=True)
class _InProcess:
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


def _app_error(error: MCPError) -> Exception:
    data: Any = error.error.data
    if error.error.code == RATE_LIMITED:
        return LimitExceeded(error.error.message, retry_after=data["retry_after_seconds"])
    if error.error.code == INVALID_PARAMS:
        unknown = "Unknown" in error.error.message or "not_found" in error.error.message
        return (NotFound if unknown else InvalidInput)(error.error.message)
    return Unavailable(error.error.message)
