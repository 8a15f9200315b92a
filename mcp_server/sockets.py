"""A WebSocket route: it declares its verb as every route does, and the gate admits and ends its connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from mcp_server.auth.principal import acting_as
from mcp_server.door_errors import Door
from mcp_server.doors import LIVE, DeclaredRoute
from mcp_server.errors import AppError
from mcp_server.policy import Verb


class DeclaredSocket(DeclaredRoute):
    """A route for WebSockets; `verb` is what its messages do, and each of them is decided by itself.

    A connection is made with a key, and lives no longer than it.
    """

    def __init__(self, path: str, endpoint: Any, *, verb: Verb, door: Door) -> None:
        super().__init__(path, endpoint, methods=(), verb=verb, door=door)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Tell whether a connection is for this route; requests never are."""
        if scope["type"] != "websocket":
            return Match.NONE, {}
        return super().matches({**scope, "type": "http", "method": "GET"})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the connection, then serve it as its principal."""
        gate = self.gate
        if gate is None:
            raise RuntimeError("a route is served before Gate.bind took charge of it")
        try:
            principal = await gate.admit(scope)
        except AppError as error:
            await gate.render(self.door, error, scope)(scope, receive, send)
            return
        with acting_as(principal), gate.track(principal, streams=False) as live:
            scope[LIVE] = live
            await self.app(scope, receive, send)


def socket_options(most_bytes: int) -> Mapping[str, Any]:
    """Give uvicorn's settings for sockets; a message may have `most_bytes`.

    Nothing is compressed: a small message could become a large one.
    """
    return {
        "ws": "websockets-sansio",
        "ws_max_size": most_bytes,
        "ws_per_message_deflate": False,
    }
