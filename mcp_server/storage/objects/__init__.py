"""What every blob store promises: immutable bytes under random keys; what they mean is the manifest's matter."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from mcp_server.errors import ConfigurationError


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

        It must leave puts alone that are still in progress, through this store or, as long as
        anything of them has moved since `before`, in another process.
        """
        ...

    async def answers(self) -> None:
        """Return when the store could serve a `put` and a `get`."""
        ...


@runtime_checkable
class Presigning(Protocol):
    """A blob store that clients can reach themselves, by links that hold for some seconds.

    A link is a bearer's: it must be given to nobody but the client, and never be logged.
    """

    def link_to_get(self, key: str, *, seconds: int, content_type: str, disposition: str) -> str:
        """Return a URL from which a blob can be read.

        The answer must have `content_type` and `disposition` as headers, and the signature must
        hold both, so that whoever has the URL cannot change them.
        """
        ...

    def link_to_put(self, *, seconds: int) -> tuple[str, str]:
        """Return the name of a new slot and a URL to which up to 5 GB can be PUT.

        What arrives is no blob yet, as whoever has the URL can replace it until it ends: it is read
        with `received`, and put. No length can be forced on the client.
        """
        ...

    def received(self, slot: str) -> AsyncGenerator[bytes]:
        """Yield what came to a slot.

        It must raise NotFound if nothing has arrived, or it was dropped.
        """
        ...

    async def drop(self, slot: str) -> None:
        """Forget a slot; `discard_unfinished` must do so with those that are older than its time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What an engine is opened with.

    `url` is None for the embedded one, which keeps its blobs under `folder`. `namespace` names the
    control database: blobs of others must stay apart. `max_blob_bytes` is what a blob must be able
    to hold. `public_url` is how clients reach the store themselves, None if they do not.
    """

    url: str | None
    folder: Path
    namespace: str
    max_blob_bytes: int
    public_url: str | None = None


Opener = Callable[[Opening], AbstractAsyncContextManager[BlobStore]]

DEFAULT_ENGINE = "file"


@asynccontextmanager
async def open_blobs(opening: Opening) -> AsyncGenerator[BlobStore]:
    """Yield the engine for a URL: the module of this package that has its scheme's name.

    Raises:
        ConfigurationError: this version has no such engine, or it does not open.
    """
    scheme = DEFAULT_ENGINE if opening.url is None else opening.url.partition(":")[0]
    name = f"{__name__}.{scheme}"
    if not scheme.isidentifier() or importlib.util.find_spec(name) is None:
        raise ConfigurationError(
            f"ISTHMUS_OBJECTS_URL: there is no blob store for {scheme}:// in this version; "
            "leave it unset to keep objects in the data directory"
        )
    try:
        opener = cast("Opener", importlib.import_module(name).open_engine)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"ISTHMUS_OBJECTS_URL: {scheme}:// needs the package {error.name!r}; "
            f"install it with: pip install 'isthmus[{scheme}]'"
        ) from error
    async with opener(opening) as engine:
        yield engine
