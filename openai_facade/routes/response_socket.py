"""`/v1/responses` as a WebSocket."""

from __future__ import annotations

from mcp_server.doors import DeclaredRoute
from mcp_server.sockets import DeclaredSocket
from openai_facade.facade import Facade
from openai_facade.socket import ResponseSocket

PATH = "/v1/responses"


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""
    return [DeclaredSocket(PATH, ResponseSocket(facade), verb="run", door="openai")]
