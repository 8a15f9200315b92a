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

from mcp_server import __version__, policy
from mcp_server.auth.principal import Principal, acting_as
from mcp_server.boundary import RATE_LIMITED
from mcp_server.errors import (
    AppError,
    Conflict,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Timeout,
    Unavailable,
)
from mcp_server.invocation import Invocation, invoking
from mcp_server.policy import Verb
from mcp_server.runs.context import RunContext
from mcp_server.server import IsthmusServer
from mcp_server.tool import DeclaredTool

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
        declared = sorted(server.declared_tools.values(), key=lambda tool: tool.name)
        self._specs: list[tuple[ToolSpec, Verb]] = [(_spec(tool), tool.verb) for tool in declared]

    async def call(
        self,
        principal: Principal,
        tool: str,
        arguments: dict[str, Any],
        key: str | None = None,
        deadline: float | None = None,
        progress: ProgressFn | None = None,
        *,
        by_model: bool = False,
    ) -> ToolResult:
        """Call a tool. `deadline` is in the event loop's time; `key` makes a repeated call harmless.

        `by_model` tells that a model chose the call.

        Raises:
            NotFound: there is no such tool. LimitExceeded: the caller's rate is used up.
        """
        params = {"name": tool, "arguments": arguments}
        invocation = Invocation(key, deadline, metered=False, by_model=by_model)
        result = await self._request(principal, "tools/call", params, invocation, progress)
        content: list[dict[str, Any]] = result.get("content", [])
        text = "\n".join(item["text"] for item in content if item.get("type") == "text")
        return ToolResult(
            text, result.get("structuredContent"), bool(result.get("isError")), content
        )

    async def work(
        self,
        principal: Principal,
        tool: str,
        arguments: dict[str, Any],
        *,
        key: str,
        run: RunContext,
    ) -> dict[str, Any]:
        """Call a long tool as the work of its own run, and return its result as the protocol has it.

        Raises:
            AppError: there is no such tool, or it failed as a request.
        """
        params = {"name": tool, "arguments": arguments}
        invocation = Invocation(key, metered=False, run=run)
        return await self._request(principal, "tools/call", params, invocation)

    async def list_tools(self, principal: Principal) -> list[ToolSpec]:
        """Return the tools that `principal` may call, in the order of their names."""
        return [
            spec
            for spec, verb in self._specs
            if policy.allows(principal, verb, f"tool://{spec.name}")
        ]

    def is_repeatable(self, tool: str) -> bool:
        """Tell whether two calls of a tool with one key take effect once; one not there has no effect."""
        declared = self._server.declared_tools.get(tool)
        return declared is None or (declared.idempotent and not declared.egress)

    async def read(self, principal: Principal, uri: str) -> list[ResourceContent]:
        """Read a resource.

        Raises:
            NotFound: there is no such resource. Forbidden: `principal` may not read it.
        """
        invocation = Invocation(metered=False)
        result = await self._request(principal, "resources/read", {"uri": uri}, invocation)
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
        invocation: Invocation,
        progress: ProgressFn | None = None,
    ) -> dict[str, Any]:
        meta: dict[str, Any] = _META if progress is None else {**_META, "progressToken": 0}
        connection = Connection.from_envelope(
            LATEST_MODERN_VERSION, _CLIENT, _META[CLIENT_CAPABILITIES_META_KEY]
        )
        with acting_as(principal), invoking(invocation):
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


_BY_CODE: dict[str, type[AppError]] = {
    kind.code: kind
    for kind in (InvalidInput, Forbidden, NotFound, Conflict, LimitExceeded, Unavailable, Timeout)
}


def _spec(tool: DeclaredTool) -> ToolSpec:
    read_only = bool(tool.annotations and tool.annotations.read_only_hint)
    return ToolSpec(tool.name, tool.description, tool.parameters, read_only, tool.egress)


def _app_error(error: MCPError) -> AppError:
    """Return the failure that the server put into the protocol's words: `CODE: message`."""
    message, data = error.error.message, error.error.data
    if error.error.code == RATE_LIMITED:
        return LimitExceeded(message, retry_after=data["retry_after_seconds"])
    code, colon, rest = message.partition(": ")
    if colon and code in _BY_CODE:
        return _BY_CODE[code](rest)
    if error.error.code == INVALID_PARAMS:
        return (NotFound if message.startswith("Unknown ") else InvalidInput)(message)
    return Unavailable(message)
