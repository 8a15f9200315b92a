"""The bytes of one request on their way into parts: counted, checked, and cut where a part ends."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from mcp_server.errors import AppError, InvalidInput

ALGORITHMS = ("sha1", "sha256", "md5")


class ChecksumMismatch(AppError):
    """The bytes that came are not those that were sent; the status is that of tus."""

    code = "invalid_input"
    status = 460


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the bytes of one request must add up to."""

    algorithm: str
    digest: bytes


class Feed:
    """Takes up to `room` bytes of what a client sends.

    A client that leaves in the middle ends the feed as if it had sent no more: `error` says so then,
    and what came before can be kept.
    """

    def __init__(self, chunks: AsyncIterator[bytes], room: int, checksum: Checksum | None) -> None:
        self._chunks = chunks
        self._room = room
        self._checksum = checksum
        self._hash = hashlib.new(checksum.algorithm) if checksum else None
        self._waiting = b""
        self._ended = False
        self.error: AppError | None = None

    async def more(self) -> bool:
        """Tell whether there is another byte.

        Raises:
            InvalidInput: there is, and no room for it.
        """
        while not self._waiting and not self._ended:
            try:
                self._waiting = await anext(self._chunks)
            except StopAsyncIteration:
                self._ended = True
            except AppError as error:
                self._ended, self.error = True, error
        if self._waiting and not self._room:
            raise InvalidInput("the body goes on past Upload-Length; send no more than that")
        return bool(self._waiting)

    async def part(self, most: int) -> AsyncGenerator[bytes]:
        """Yield up to `most` bytes."""
        most = min(most, self._room)
        while most and await self.more():
            chunk, self._waiting = self._waiting[:most], self._waiting[most:]
            if self._hash is not None:
                self._hash.update(chunk)
            most -= len(chunk)
            self._room -= len(chunk)
            yield chunk

    async def finish(self) -> None:
        """Refuse what is left when there is no room any more."""
        if not self._room:
            await self.more()

    def verify(self) -> None:
        """Hold what came against the checksum.

        Raises:
            ChecksumMismatch: it is something else. AppError: the client left before its end.
        """
        if self._checksum is None or self._hash is None:
            return
        if self.error is not None:
            raise self.error
        if self._hash.digest() != self._checksum.digest:
            raise ChecksumMismatch(
                f"the {self._checksum.algorithm} of what came is another; send the chunk again"
            )
