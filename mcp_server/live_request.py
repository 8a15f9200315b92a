"""One HTTP request while it runs: how far its answer got, and how it is ended from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field

import anyio
from starlette.types import Message, Receive, Send

from mcp_server.errors import AppError

# A stream that is cut may end by itself for so long, then it is cancelled.
POLITE_SECONDS = 0.2


class Answer:
    """Passes an answer on and knows how far it got."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self._ended = False

    def send(self, message: Message) -> Awaitable[None]:
        """Send one; no coroutine of its own, since a stream does this for each of its chunks."""
        if message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        elif message["type"] == "http.response.start":
            self.started = True
        return self._send(message)

    async def end(self) -> None:
        """End a stream that was cut, so that its client sees an end and not a broken line."""
        if not self._ended:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass(eq=False, slots=True)
class LiveRequest:
    """A request in progress; `cut_by` is why it was ended from outside, if it was."""

    streams: bool
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    cut_by: AppError | None = None
    _receiving: set[anyio.CancelScope] = field(default_factory=set[anyio.CancelScope])

    def cut(self, reason: AppError) -> None:
        """End it. To a stream it looks as if its client left, so that the SDK closes all it opened."""
        self.cut_by = reason
        if not self.streams:
            self.scope.cancel()
            return
        for receiving in list(self._receiving):
            receiving.cancel()
        asyncio.get_running_loop().call_later(POLITE_SECONDS, self.scope.cancel)

    def receiving(self, receive: Receive) -> Receive:
        """Return a `receive` that reports a disconnect once the request is cut."""

        async def receive_until_cut() -> Message:
            with anyio.CancelScope() as scope:
                self._receiving.add(scope)
                try:
                    if self.cut_by is None:
                        return await receive()
                finally:
                    self._receiving.discard(scope)
            return {"type": "http.disconnect"}

        return receive_until_cut if self.streams else receive
