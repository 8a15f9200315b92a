"""Refuses foreign Host and Origin headers before any route sees the request."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_server.door_errors import Renderer, render_plain
from mcp_server.errors import AppError, Forbidden
from mcp_server.loopback import LOOPBACK_NAMES, host_name, is_address, is_loopback

logger = logging.getLogger(__name__)

# What is remembered of hosts that are served; longer ones (of an address any zone may be told) are looked at each time.
_MOST_KNOWN, _LONGEST_KNOWN = 1000, 256


class UnknownHost(AppError):
    """The request was sent to a name that this server does not go by."""

    code = "forbidden"
    status = 421


class HostGuard:
    """An ASGI middleware against DNS rebinding.

    A page of a foreign site reaches us only under a name of its own, so a Host may be an IP address,
    a loopback name, or a name that the operator allowed; an Origin likewise.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Iterable[str],
        origins: Iterable[str],
        render: Renderer = render_plain,
    ) -> None:
        self._app = app
        self._render = render
        self._hosts = LOOPBACK_NAMES | {host_name(item) for item in hosts}
        self._known: set[bytes] = set()
        self._origins = {item.rstrip("/").lower() for item in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            # The parser keeps blanks around values; the protocol compares them without.
            scope["headers"] = headers = [
                (name, value.strip(b" \t")) for name, value in scope["headers"]
            ]
            refusal = self._refusal(headers)
            if refusal is not None:
                logger.warning("refused a request: %s", refusal.message)
                await self._render(refusal, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: list[tuple[bytes, bytes]]) -> AppError | None:
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._serves(hosts[0]):
            shown = b", ".join(hosts).decode("latin-1")[:100]
            return UnknownHost(f"host {shown!r} is not served here; set ISTHMUS_ALLOWED_HOSTS")
        for name, value in headers:
            if name != b"origin":
                continue
            origin = value.decode("latin-1").lower()
            if not self._own_origin(origin, hosts[0].decode("latin-1")):
                return Forbidden(
                    f"origin {origin[:100]!r} is not allowed; set ISTHMUS_ALLOWED_ORIGINS"
                )
        return None

    def _serves(self, host: bytes) -> bool:
        if host in self._known:
            return True
        name = host_name(host.decode("latin-1"))
        if name not in self._hosts and not is_address(name):
            return False
        if len(host) <= _LONGEST_KNOWN:
            if len(self._known) >= _MOST_KNOWN:  # any address is served, whoever makes it up
                self._known.clear()
            self._known.add(host)
        return True

    def _own_origin(self, origin: str, host: str) -> bool:
        if origin in self._origins:
            return True
        try:
            parts = urlsplit(origin)
            name = parts.hostname or ""
        except ValueError:  # half an IPv6 address
            return False
        if parts.scheme not in {"http", "https"}:
            return False
        # The page that this very server handed out, or one on this machine.
        return parts.netloc == host.lower() or is_loopback(name)
