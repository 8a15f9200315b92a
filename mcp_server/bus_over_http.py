"""The bus's link to a server elsewhere: one HTTP request for each MCP request, with a pass instead of a key."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import orjson
from anyio import current_time, get_cancelled_exc_class
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
)
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.version import LATEST_MODERN_VERSION

from mcp_server import __version__
from mcp_server.auth.passes import Pass, Passes
from mcp_server.auth.principal import Principal
from mcp_server.bus import ProgressFn, ToolSpec
from mcp_server.bus_errors import app_error
from mcp_server.errors import AppError, Unauthenticated, Unavailable
from mcp_server.invocation import Invocation
from mcp_server.llm.sse import EventParser

if TYPE_CHECKING:
    import aiohttp

FRESH_SECONDS = 2.0
"""How long a list of tools is used again; what may be called is decided at each call anyway."""
MOST_LISTS = 1_000
CONNECT_SECONDS = 5.0
CONNECTIONS = 256

_META: dict[str, Any] = {
    PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
    CLIENT_INFO_META_KEY: {"name": "isthmus-bus", "version": __version__},
    CLIENT_CAPABILITIES_META_KEY: {},
}


class OverHttp:
    """Reaches the MCP server at `url` (the address of `/mcp`)."""

    def __init__(self, url: str, passes: Passes, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._passes = passes
        self._http = http
        self._lists: dict[Principal, tuple[float, list[ToolSpec]]] = {}
        self._repeatable: set[str] = set()

    async def tools(self, principal: Principal) -> list[ToolSpec]:
        """Return the tools that `principal` may call, as they were at most two seconds ago."""
        known = self._lists.get(principal)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        listed: list[ToolSpec] = []
        params: dict[str, Any] = {}
        while True:
            page = await self.request(principal, "tools/list", params, Invocation(metered=False))
            listed += [_spec(tool) for tool in page["tools"]]
            if not page.get("nextCursor"):
                break
            params = {"cursor": page["nextCursor"]}
        if len(self._lists) >= MOST_LISTS:
            self._lists.clear()
        self._lists[principal] = (time.monotonic() + FRESH_SECONDS, listed)
        self._repeatable |= {spec.name for spec in listed if spec.read_only}
        return listed

    def is_repeatable(self, tool: str) -> bool:
        """Tell whether a tool is known to change nothing: more is not told over this link."""
        return tool in self._repeatable

    async def request(
        self,
        principal: Principal,
        method: str,
        params: dict[str, Any],
        invocation: Invocation,
        progress: ProgressFn | None = None,
    ) -> dict[str, Any]:
        """Send one request; when the caller is cancelled the connection closes, and the work ends with it."""
        meta = _META if progress is None else {**_META, "progressToken": 0}
        body = {"jsonrpc": "2.0", "id": 0, "method": method, "params": {**params, "_meta": meta}}
        headers = self._headers(principal, method, params, invocation)
        async with self._answer(orjson.dumps(body), headers) as answer:
            message = await _message(answer, progress)
        if "error" in message:
            fault = message["error"]
            raise app_error(MCPError(fault["code"], fault["message"], fault.get("data")))
        return cast("dict[str, Any]", message["result"])

    def _headers(
        self, principal: Principal, method: str, params: dict[str, Any], invocation: Invocation
    ) -> dict[str, str]:
        seconds = None if invocation.deadline is None else invocation.deadline - current_time()
        shown = self._passes.make(Pass(principal, invocation.key, seconds, invocation.by_model))
        headers = {
            "Authorization": f"Bearer {shown}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            MCP_PROTOCOL_VERSION_HEADER: LATEST_MODERN_VERSION,
            MCP_METHOD_HEADER: method,
        }
        field = NAME_BEARING_METHODS.get(method)
        if field is not None:
            headers[MCP_NAME_HEADER] = encode_header_value(params[field])
        return headers

    @asynccontextmanager
    async def _answer(
        self, body: bytes, headers: dict[str, str]
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        import aiohttp

        try:
            async with self._http.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                try:
                    yield answer
                except get_cancelled_exc_class():
                    answer.close()  # the connection cannot serve again, and the work behind it ends
                    raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise Unavailable(
                f"the tools at ISTHMUS_MCP_URL={self._url} do not answer ({reason}); try again"
            ) from error


async def _message(answer: aiohttp.ClientResponse, progress: ProgressFn | None) -> dict[str, Any]:
    """Return the response, after the notifications that come before it."""
    if answer.content_type == "application/json":
        message = _parsed(await answer.read())
        if "error" in message or "result" in message:
            return message
        raise _refused(answer.status, "an answer that is none of MCP")
    if answer.content_type != "text/event-stream":
        raise _refused(answer.status, (await answer.text(errors="replace"))[:300])
    parser = EventParser()
    async for received in answer.content.iter_any():
        for event in parser.feed(received):
            message = _parsed(event)
            if "method" not in message:
                return message
            if progress is not None and message["method"] == "notifications/progress":
                told = message["params"]
                await progress(told["progress"], told.get("total"), told.get("message"))
    raise Unavailable("the answer of the tools ended before its result; try again")


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        message: object = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Unavailable("the tools answered with something that is not JSON") from error
    if not isinstance(message, dict):
        raise Unavailable("the tools answered with something that is none of MCP")
    return cast("dict[str, Any]", message)


def _refused(status: int, text: str) -> AppError:
    kind = Unauthenticated if status == 401 else Unavailable
    return kind(f"the server of the tools answered with status {status}: {text}")


def _spec(tool: dict[str, Any]) -> ToolSpec:
    hints: dict[str, Any] = tool.get("annotations") or {}
    return ToolSpec(
        tool["name"],
        tool.get("description", ""),
        tool["inputSchema"],
        bool(hints.get("readOnlyHint")),
        bool(hints.get("openWorldHint")),
    )


@asynccontextmanager
async def open_link(url: str, passes: Passes) -> AsyncGenerator[OverHttp]:
    """Open a link to the MCP server whose `/mcp` is at `url`; it connects when it is first used."""
    import aiohttp

    # A tool may work for long: how long is a matter of its own deadline, and of the caller's patience.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar) as http:
        yield OverHttp(url, passes, http)
