"""What only the handshake era of MCP has: log levels and resource subscriptions of a session, and changed lists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast, get_args

from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.subscriptions import (
    PromptsListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp_types import (
    EmptyResult,
    LoggingLevel,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_server import policy
from mcp_server.auth.principal import current_principal
from mcp_server.server import IsthmusServer
from mcp_server.updates import Updates, check_count

RequestContext = ServerRequestContext[Any, Any]
# A session that no longer reads may hold this many undelivered updates; then it loses the oldest.
MOST_PENDING = 1024
# The methods that read a list, and the capability that announces its changes.
_LISTS = {"tools/list": "tools", "prompts/list": "prompts"}
# From the least severe to the most (RFC 5424).
_LEVELS: tuple[LoggingLevel, ...] = get_args(LoggingLevel)


def add_handshake_methods(server: IsthmusServer, updates: Updates) -> None:
    """Serve logging/setLevel, resources/subscribe and resources/unsubscribe."""

    async def set_level(ctx: RequestContext, params: SetLevelRequestParams) -> EmptyResult:
        _connection(ctx).state["log_level"] = params.level
        return EmptyResult()

    async def subscribe(ctx: RequestContext, params: SubscribeRequestParams) -> EmptyResult:
        uri = str(params.uri)
        policy.require(current_principal(), "read", uri)
        await updates.prepare()
        subscribed = _subscriptions(_connection(ctx), updates)
        check_count(len(subscribed.keys() | {uri}))
        if uri not in subscribed:
            subscribed[uri] = updates.watch(uri)
        return EmptyResult()

    async def unsubscribe(ctx: RequestContext, params: UnsubscribeRequestParams) -> EmptyResult:
        unwatch = _subscriptions(_connection(ctx), updates).pop(str(params.uri), None)
        if unwatch is not None:
            unwatch()
        return EmptyResult()

    lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the SDK has no public door for it
    lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
    lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)
    server.middleware.append(_filter_logs)
    server.middleware.append(_tell_lists(updates))


class _WantedLevels:
    """The levels that a session wants at the moment it is asked: it may change its mind during a call."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def __contains__(self, level: object) -> bool:
        least = self._state.get("log_level", _LEVELS[0])
        return level in _LEVELS and _LEVELS.index(level) >= _LEVELS.index(least)


async def _filter_logs(ctx: RequestContext, call_next: CallNext) -> HandlerResult:
    """Hold back what is below the level that the session set: the SDK leaves that to its host."""
    if ctx.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
        wanted: Any = _WantedLevels(_connection(ctx).state)
        ctx.session._allowed_log_levels = wanted  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  its one question is `level in …`
    return await call_next(ctx)


def _tell_lists(updates: Updates) -> ServerMiddleware[Any]:
    """Tell each session that its lists of tools and prompts change, from the first time that it reads one."""

    async def tell(ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        if ctx.method in _LISTS and ctx.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
            await updates.prepare()
            _follow_lists(_connection(ctx), updates)
        result = await call_next(ctx)
        if ctx.method == "initialize" and isinstance(result, dict):
            capabilities = cast("dict[str, Any]", result["capabilities"])
            told = {name: {**capabilities[name], "listChanged": True} for name in _LISTS.values()}
            return {**result, "capabilities": capabilities | told}
        return result

    return tell


def _connection(ctx: RequestContext) -> Connection:
    return ctx.session._connection  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  per-session state hangs on it


def _subscriptions(connection: Connection, updates: Updates) -> dict[str, Callable[[], None]]:
    """Return the session's subscribed URIs, each with its way out; the first use starts their delivery."""
    if "subscriptions" not in connection.state:
        uris: dict[str, Callable[[], None]] = {}
        connection.state["subscriptions"] = uris
        sender = _sender(connection)

        def receive(event: ServerEvent) -> None:
            if isinstance(event, ResourceUpdated) and event.uri in uris:
                sender.receive(event)

        connection.exit_stack.callback(lambda: [unwatch() for unwatch in uris.values()])
        connection.exit_stack.callback(updates.subscribe(receive))
    return connection.state["subscriptions"]


def _follow_lists(connection: Connection, updates: Updates) -> None:
    """Let the session hear of changed lists, if it does not yet."""
    if "lists" not in connection.state:
        connection.state["lists"] = True
        sender = _sender(connection)
        connection.exit_stack.callback(updates.subscribe_lists(sender.receive))


def _sender(connection: Connection) -> _Sender:
    if "sender" not in connection.state:
        sender = connection.state["sender"] = _Sender(connection)
        connection.exit_stack.push_async_callback(sender.close)
    return connection.state["sender"]


class _Sender:
    """Sends updates to one session, in order, from a task of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pending: asyncio.Queue[ServerEvent] = asyncio.Queue(MOST_PENDING)
        self._task = asyncio.create_task(self._send_forever(), name="session-updates")

    def receive(self, event: ServerEvent) -> None:
        if self._pending.full():
            self._pending.get_nowait()
        self._pending.put_nowait(event)

    async def _send_forever(self) -> None:
        while True:
            match await self._pending.get():
                case ResourceUpdated(uri):
                    await self._connection.send_resource_updated(uri)
                case ToolsListChanged():
                    await self._connection.send_tool_list_changed()
                case PromptsListChanged():
                    await self._connection.send_prompt_list_changed()
                case _:
                    pass

    async def close(self) -> None:
        self._task.cancel()
