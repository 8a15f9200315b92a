"""Sends the head of an answer with its first bytes, where both are written in one go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Longer ones are not copied to stand behind a head.
_MOST_JOINED = 64 * 1024


class JoinedHead:
    """Stands for the transport of one answer until its head is sent; then `sent` puts the transport in its place.

    A write to a socket costs more than most of what a request takes here, and wakes the client up.
    A head with nothing behind it goes out when the loop comes round again: its client may wait for it.
    """

    __slots__ = ("_flushing", "_head", "_loop", "_sent", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        sent: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._sent = sent
        self._head = b""
        self._flushing: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """Write what is the head, the first time, and what follows it with it."""
        if self._flushing is None:
            self._head = data
            self._flushing = self._loop.call_soon(self.flush)
        elif len(data) > _MOST_JOINED:
            self.flush()
            self._transport.write(data)
        else:
            self._head += data
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._flushing is None:
            return
        self._flushing.cancel()
        self._flushing = None
        self._sent()
        if not self._transport.is_closing():
            self._transport.write(self._head)

    def is_closing(self) -> bool:
        """Tell as the transport does."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the transport when what waits is sent."""
        self.flush()
        self._transport.close()
