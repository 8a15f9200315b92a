"""What a client of the older transport has asked for and not read yet, and when that is enough."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import orjson
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared._stream_protocols import WriteStream
from mcp.shared.message import SessionMessage
from starlette.types import Scope

from mcp_server.door_errors import Busy

# Messages in progress or unread, and bytes of answers unread, of one connection.
MOST_MESSAGES = 64
MOST_BYTES = 8 * 1024 * 1024
RETRY_SECONDS = 1.0

# Where the request that brought a message keeps the backlog of its connection.
_BACKLOG = "isthmus.backlog"


class Backlog:
    """Of one connection: messages come by other requests than answers leave, so nothing else slows them."""

    def __init__(self) -> None:
        self._messages = 0
        self._unread = 0
        self._unread_bytes = 0

    @contextmanager
    def arriving(self, scope: Scope) -> Generator[None]:
        """Take in the message of a POST.

        Raises:
            Busy: the client has to read, or to wait, first.
        """
        if self._messages + self._unread >= MOST_MESSAGES or self._unread_bytes >= MOST_BYTES:
            raise Busy(
                "this connection's answers are not read; read the stream at /sse, then try again",
                retry_after=RETRY_SECONDS,
            )
        scope[_BACKLOG] = self
        with self._counted():
            yield

    @contextmanager
    def _counted(self) -> Generator[None]:
        self._messages += 1
        try:
            yield
        finally:
            self._messages -= 1

    @contextmanager
    def leaving(self, message: SessionMessage) -> Generator[None]:
        """Count an answer until the client's stream takes it; its size only if others wait before it."""
        size = _size(message) if self._unread else 0
        self._unread += 1
        self._unread_bytes += size
        try:
            yield
        finally:
            self._unread -= 1
            self._unread_bytes -= size

    async def in_progress(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Serve one message and count it meanwhile."""
        with self._counted():
            return await call_next(ctx)


async def count_in_progress(
    ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> HandlerResult:
    """Count a message with its connection while it is served; a middleware of the MCP server."""
    backlog = None if ctx.request is None else ctx.request.scope.get(_BACKLOG)
    if backlog is None:
        return await call_next(ctx)
    return await backlog.in_progress(ctx, call_next)


class Outbox:
    """The stream of answers to one client, counted in its backlog."""

    def __init__(self, stream: WriteStream[SessionMessage], backlog: Backlog) -> None:
        self._stream = stream
        self._backlog = backlog

    async def send(self, item: SessionMessage, /) -> None:
        with self._backlog.leaving(item):
            await self._stream.send(item)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        return await self._stream.__aexit__(exc_type, exc_val, exc_tb)


def _size(message: SessionMessage) -> int:
    body = getattr(message.message, "result", None) or getattr(message.message, "params", None)
    try:
        return len(orjson.dumps(body))
    except TypeError:  # numbers of more than 64 bits
        return len(str(body))
