"""Tools of MCP servers elsewhere, which a caller names by URL: listed and called under the guard of outside URLs."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from anyio import fail_after

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Timeout, Unavailable
from mcp_server.fetch import Fetcher
from mcp_server.operation import Operations

if TYPE_CHECKING:
    from mcp import Client

MOST_TOOLS = 500
MOST_ANSWER_BYTES = 8 * 1024 * 1024
LIST_SECONDS = 30.0
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 300.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutsideServer:
    """Where it is, and the headers, with the caller's secrets for it, that each request carries."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True)
class OutsideTool:
    """A tool as its server lists it."""

    name: str
    description: str
    input_schema: dict[str, Any]
    read_only: bool


@dataclass(frozen=True, slots=True)
class OutsideResult:
    """What a tool answered, as text for a model."""

    text: str
    is_error: bool


class OutsideTools:
    """Each method is an operation `run` on `mcp://AUTHORITY`, with egress.

    Every operation connects anew: the guard decides again, and no other caller's session is near.
    """

    def __init__(self, operation: Operations, fetcher: Fetcher, own_address: str) -> None:
        self._operation = operation
        self._fetcher = fetcher
        self._own_doors = {own_address.rstrip("/") + path for path in ("/mcp", "/sse")}

    def is_own(self, server: OutsideServer) -> bool:
        """Tell whether a server is this one, as whoever asks: with headers it might be as somebody else."""
        return not server.headers and server.url.rstrip("/") in self._own_doors

    async def list(self, principal: Principal, server: OutsideServer) -> list[OutsideTool]:
        """Return the tools of a server, 500 at most.

        Raises:
            InvalidInput: the URL is malformed or may not be reached. Unavailable: it does not answer.
            Timeout: its list has no end within 30 s.
        """
        found: list[OutsideTool] = []
        async with self._connected(principal, server, LIST_SECONDS) as client:
            cursor: str | None = None
            while len(found) < MOST_TOOLS:
                page = await client.list_tools(cursor=cursor)
                for tool in page.tools:
                    hints = tool.annotations
                    read_only = bool(hints and hints.read_only_hint)
                    schema: dict[str, Any] = tool.input_schema
                    found.append(OutsideTool(tool.name, tool.description or "", schema, read_only))
                cursor = page.next_cursor
                if not cursor:
                    break
        return found[:MOST_TOOLS]

    async def call(
        self, principal: Principal, server: OutsideServer, tool: str, arguments: dict[str, Any]
    ) -> OutsideResult:
        """Call a tool.

        Raises:
            InvalidInput: the URL is malformed or may not be reached. Unavailable: it does not answer.
        """
        async with self._connected(principal, server) as client:
            result = await client.call_tool(tool, arguments)
        texts = [str(getattr(part, "text", "")) for part in result.content]
        return OutsideResult("\n".join(filter(None, texts)), bool(result.is_error))

    @asynccontextmanager
    async def _connected(
        self, principal: Principal, server: OutsideServer, seconds: float | None = None
    ) -> AsyncGenerator[Client]:
        import httpx2
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared.exceptions import MCPError

        target = await self._fetcher.check(server.url)
        uri = f"mcp://{target.authority}"
        async with self._operation(principal, "run", uri, egress=True):
            try:
                with fail_after(seconds):
                    async with (
                        httpx2.AsyncClient(
                            transport=self._fetcher.transport(MOST_ANSWER_BYTES),
                            headers=dict(server.headers),
                            timeout=httpx2.Timeout(_CONNECT_SECONDS, read=_READ_SECONDS),
                        ) as http,
                        Client(streamable_http_client(str(target), http_client=http)) as client,
                    ):
                        yield client
            except TimeoutError as error:
                raise Timeout(
                    f"the MCP server at {target.authority} was too slow; try again"
                ) from error
            except (MCPError, httpx2.HTTPError, OSError) as error:
                raise _silent(target.authority, error) from error
            except ExceptionGroup as failures:
                raise _first(failures, target.authority) from failures


def _first(group: ExceptionGroup[Exception], authority: str) -> Exception:
    """Return what is told of several failures: the first that was written for a caller."""
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            return _first(cast("ExceptionGroup[Exception]", error), authority)
        if isinstance(error, AppError):
            return error
    return _silent(authority, group.exceptions[0])


def _silent(authority: str, error: Exception) -> Unavailable:
    logger.info("the MCP server at %s: %s", authority, error)
    return Unavailable(f"the MCP server at {authority} does not answer, or refuses; try again")
