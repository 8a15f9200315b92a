"""What every blob store promises: immutable bytes under random keys; what they mean is the manifest's matter."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Blob:
    """One stored blob; `size` in bytes, the digests as lower-case hexadecimal."""

    key: str
    size: int
    sha256: str
    md5: str


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """One blob as a listing shows it; `written_at` is aware and by the store's clock."""

    key: str
    written_at: datetime


class BlobStore(Protocol):
    """A place for blobs. Any number of processes may use the same one at the same time.

    Every method must raise `Unavailable`, with a text that shows no path or address, when the store
    refuses or cannot be reached. A cancelled method must leave nothing running behind it.
    """

    async def put(self, chunks: AsyncIterable[bytes]) -> Blob:
        """Store the bytes under a new random key that was never used before.

        When this returns, the blob must survive a crash of the process and of the machine. Until it
        is complete, neither `get` nor `list` may show it; if `chunks` raises or the call is
        cancelled, nothing may be left but what `discard_unfinished` removes. It must hold no more
        in memory than a few chunks and must leave closing `chunks` to the caller.
        """
        ...

    def get(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `start` up to, not including, `end`, in non-empty chunks of at most 1 MiB.

        It must yield exactly `end - start` bytes or raise `Unavailable`, so also if there is no such
        blob or it is shorter. A reader that has begun must not be disturbed by `delete`. Whoever stops
        early must close the generator.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete a blob; deleting one that is not there must succeed."""
        ...

    def list(self) -> AsyncGenerator[StoredBlob]:
        """Yield every complete blob, in any order.

        One that is written or deleted meanwhile may be shown or not.
        """
        ...

    async def discard_unfinished(self, before: datetime) -> int:
        """Remove what puts that died left behind, untouched since `before`; return how many.

        It must leave puts alone that are still in progress, in this or another process.
        """
        ...

    async def answers(self) -> None:
        """Return when the store could serve a `put` and a `get`."""
        ...
