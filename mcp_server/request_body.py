"""The bodies of requests in progress: how large one may be, and how much memory all of them take."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from starlette.types import Message, Receive, Scope

from mcp_server.door_errors import BodyTooLarge, Busy, ClientLeft, Stalled

# Room for four bodies of the largest size; with a small limit, for many.
BODIES, LEAST_ROOM = 4, 64 * 1024 * 1024
# A body of which nothing came for so long is given up, and its room with it.
STALL_SECONDS = 30.0
RETRY_SECONDS = 1.0


class BodyRoom:
    """The memory for bodies of requests in progress: bounds each body, all of them, and one caller's share.

    Each caller may fill half of it, so that one who sends bodies without an end leaves room to others.
    """

    def __init__(self, most_bytes: int, most_uploaded: int | None = None) -> None:
        self._most = most_bytes
        self._most_uploaded = most_bytes if most_uploaded is None else most_uploaded
        self._room = max(BODIES * most_bytes, LEAST_ROOM)
        self._held: Counter[str] = Counter()
        self._total = 0

    @property
    def held(self) -> int:
        """Bytes of bodies that are held now."""
        return self._total

    @contextmanager
    def receiving(self, caller: str, scope: Scope, receive: Receive) -> Generator[Receive]:
        """Yield a `receive` that counts the body; what it took is given back when the block ends.

        Raises:
            BodyTooLarge: the body, or its declared length, is over the limit.
            Busy: there is no room for more now. Stalled: nothing came for too long.
            ClientLeft: the body has no end.
        """
        too_large = BodyTooLarge(f"the body is over {self._most} bytes (ISTHMUS_MAX_BODY_BYTES)")
        declared = declared_length(scope)
        if self._most < declared < math.inf:
            raise too_large
        read, more = 0, declared > 0

        async def counted() -> Message:
            nonlocal read, more
            message = await self._next(receive) if more else await receive()
            size = len(message.get("body", b""))
            if read + size > self._most:
                raise too_large
            self._take(caller, size)
            read += size
            more = more and message.get("more_body", False)
            return message

        try:
            yield counted
        finally:
            self._give_back(caller, read)

    @contextmanager
    def streaming(self, caller: str, scope: Scope, receive: Receive) -> Generator[Receive]:
        """Yield a `receive` for a body that is stored as it comes: bounded by its length, not by room.

        Nothing more is read of it than what is asked for, so it holds one message at a time.

        Raises:
            BodyTooLarge: the body, or its declared length, is over the size of an object.
            Stalled: nothing came for too long. ClientLeft: the body has no end.
        """
        del caller
        most = self._most_uploaded
        too_large = BodyTooLarge(f"the body is over {most} bytes (ISTHMUS_MAX_OBJECT_BYTES)")
        declared = declared_length(scope)
        if most < declared < math.inf:
            raise too_large
        read, more = 0, declared > 0

        async def counted() -> Message:
            nonlocal read, more
            message = await self._next(receive) if more else await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise too_large
            more = more and message.get("more_body", False)
            return message

        yield counted

    async def _next(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                message = await receive()
        except TimeoutError as error:
            raise Stalled(f"no more of the body came within {STALL_SECONDS:g} seconds") from error
        if message["type"] == "http.disconnect":
            raise ClientLeft("the client left before its request was complete")
        return message

    def _take(self, caller: str, size: int) -> None:
        own, room = self._held[caller] + size, self._room
        if size and (self._total + size > room or own > room // 2):
            raise Busy("too many bodies are being received; try again", retry_after=RETRY_SECONDS)
        self._held[caller] = own
        self._total += size

    def _give_back(self, caller: str, size: int) -> None:
        self._held[caller] -= size
        self._total -= size
        if not self._held[caller]:
            del self._held[caller]


def declared_length(scope: Scope) -> float:
    """Return how many bytes of body a request announces; infinite if it says that there is one, not how long."""
    length = 0.0
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            length = max(length, min(float(value), 1e18))
        elif name == b"transfer-encoding":
            return math.inf
    return length
