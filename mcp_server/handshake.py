"""What only the handshake era of MCP has: log levels and resource subscriptions of a session."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import ResourceUpdated, ServerEvent
from mcp_types import (
    EmptyResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)

from mcp_server import policy
from mcp_server.auth.principal import current_principal
from mcp_server.server import IsthmusServer
from mcp_server.updates import Updates

RequestContext = ServerRequestContext[Any, Any]
# A session that no longer reads may hold this many undelivered updates; then it loses the oldest.
MOST_PENDING = 1024


def add_handshake_methods(server: IsthmusServer, updates: Updates) -> None:
    """Serve logging/setLevel, resources/subscribe and resources/unsubscribe."""

    async def set_level(ctx: RequestContext, params: SetLevelRequestParams) -> EmptyResult:
        _connection(ctx).state["log_level"] = params.level
        return EmptyResult()

    async def subscribe(ctx: RequestContext, params: SubscribeRequestParams) -> EmptyResult:
        uri = str(params.uri)
        policy.require(current_principal(), "read", uri)
        _subscriptions(_connection(ctx), updates).add(uri)
        return EmptyResult()

    async def unsubscribe(ctx: RequestContext, params: UnsubscribeRequestParams) -> EmptyResult:
        _subscriptions(_connection(ctx), updates).discard(str(params.uri))
        return EmptyResult()

    lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the SDK has no public door for it
    lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
    lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)


def _connection(ctx: RequestContext) -> Connection:
    return ctx.session._connection  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  per-session state hangs on it


def _subscriptions(connection: Connection, updates: Updates) -> set[str]:
    """Return the session's subscribed URIs; the first use starts its delivery."""
    if "subscriptions" not in connection.state:
        uris: set[str] = set()
        connection.state["subscriptions"] = uris
        sender = _Sender(connection, uris)
        connection.exit_stack.callback(updates.subscribe(sender.receive))
        connection.exit_stack.push_async_callback(sender.close)
    return connection.state["subscriptions"]


class _Sender:
    """Sends updates to one session, in order, from a task of its own."""

    def __init__(self, connection: Connection, uris: set[str]) -> None:
        self._connection = connection
        self._uris = uris
        self._pending: asyncio.Queue[str] = asyncio.Queue(MOST_PENDING)
        self._task = asyncio.create_task(self._send_forever(), name="session-updates")

    def receive(self, event: ServerEvent) -> None:
        if isinstance(event, ResourceUpdated) and event.uri in self._uris:
            if self._pending.full():
                self._pending.get_nowait()
            self._pending.put_nowait(event.uri)

    async def _send_forever(self) -> None:
        while True:
            await self._connection.send_resource_updated(await self._pending.get())

    async def close(self) -> None:
        self._task.cancel()
