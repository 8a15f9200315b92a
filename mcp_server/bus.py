"""The way from inside the process to a tool: the full MCP path, whatever carries it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mcp_server.auth.principal import Principal
from mcp_server.invocation import Invocation
from mcp_server.plugins import Preview
from mcp_server.runs.context import RunContext

ProgressFn = Callable[[float, float | None, str | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model or an agent needs to know it; `preview` is known to the bus inside only."""

    name: str
    description: str
    input_schema: dict[str, Any]
    read_only: bool
    egress: bool
    preview: Preview | None = None


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


class Link(Protocol):
    """Carries MCP requests to a server: in this process, or over HTTP."""

    async def request(
        self,
        principal: Principal,
        method: str,
        params: dict[str, Any],
        invocation: Invocation,
        progress: ProgressFn | None = None,
    ) -> dict[str, Any]:
        """Return the result of a request that is made as `principal`.

        It must raise AppError for what the server refuses (NotFound for an unknown tool or resource,
        LimitExceeded for a used-up rate) and Unavailable when it does not answer, must tell `progress`
        what the server tells, and must cancel the work when its caller is cancelled.
        """
        ...

    async def tools(self, principal: Principal) -> list[ToolSpec]:
        """Return the tools that `principal` may call, in the order of their names."""
        ...

    def is_repeatable(self, tool: str) -> bool:
        """Tell whether two calls of a tool with one key take effect once."""
        ...


class Bus:
    """Calls tools and reads resources of a server as a given principal."""

    def __init__(self, link: Link) -> None:
        self._link = link

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
        result = await self._link.request(principal, "tools/call", params, invocation, progress)
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
        return await self._link.request(principal, "tools/call", params, invocation)

    async def list_tools(self, principal: Principal) -> list[ToolSpec]:
        """Return the tools that `principal` may call, in the order of their names."""
        return await self._link.tools(principal)

    def is_repeatable(self, tool: str) -> bool:
        """Tell whether two calls of a tool with one key take effect once; one not there has no effect."""
        return self._link.is_repeatable(tool)

    async def read(self, principal: Principal, uri: str) -> list[ResourceContent]:
        """Read a resource.

        Raises:
            NotFound: there is no such resource. Forbidden: `principal` may not read it.
        """
        invocation = Invocation(metered=False)
        result = await self._link.request(principal, "resources/read", {"uri": uri}, invocation)
        return [
            ResourceContent(
                item["uri"], item.get("mimeType", "text/plain"), item.get("text"), item.get("blob")
            )
            for item in result["contents"]
        ]
