"""Decodes compressed bodies a little at a time, so that a small body cannot become a large one unnoticed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from mcp_server.errors import InvalidInput, Unavailable

ACCEPTED = "gzip"
_AT_ONCE = 65_536
_GZIP = 16 + zlib.MAX_WBITS


class Decoder:
    """Decodes one body of `Content-Encoding` gzip, or passes it on as it is."""

    def __init__(self, encoding: str) -> None:
        """Begin a body.

        Raises:
            InvalidInput: the encoding is one that nobody asked for.
        """
        name = encoding.strip().lower()
        if name not in {"", "identity", "gzip", "x-gzip"}:
            raise InvalidInput(
                f"url: the answer is encoded as {name[:40]!r} though only {ACCEPTED} was offered",
                param="url",
            )
        self._member = zlib.decompressobj(_GZIP) if "gzip" in name else None

    def feed(self, received: bytes) -> Iterator[bytes]:
        """Yield what the bytes stand for, 64 KiB at a time; each is decoded when it is asked for.

        Raises:
            Unavailable: they are not gzip.
        """
        if self._member is None:
            yield received
            return
        waiting = received
        while waiting:
            if self._member.eof:  # another member follows
                self._member = zlib.decompressobj(_GZIP)
            try:
                piece = self._member.decompress(waiting, _AT_ONCE)
            except zlib.error as error:
                raise Unavailable(
                    "url: the answer is not the gzip it says it is", param="url"
                ) from error
            if piece:
                yield piece
            waiting = self._member.unconsumed_tail or self._member.unused_data

    def finish(self) -> None:
        """End the body.

        Raises:
            Unavailable: it broke off.
        """
        if self._member is not None and not self._member.eof:
            raise Unavailable("url: the answer broke off", param="url")
