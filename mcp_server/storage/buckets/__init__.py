"""Existing buckets of the operator's: what each must do, and the choice of its client by the URL."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, cast
from urllib.parse import parse_qsl, urlsplit

from mcp_server.errors import ConfigurationError

SETTING = "ISTHMUS_BUCKETS"
# Each tenant has these of its own: one holds what names no bucket, one the files of /v1/files.
RESERVED = frozenset({"default", "files"})
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as its server shows it; a listing knows neither `content_type` nor `metadata`."""

    key: str
    size: int
    etag: str
    modified: datetime | None
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class BucketPage:
    """A page of objects and of common prefixes; `token` begins the next one, None if this is the last."""

    entries: Sequence[Entry]
    prefixes: Sequence[str]
    token: str | None


@dataclass(frozen=True, slots=True)
class Upload:
    """What is stored under a key, and what must be there for it."""

    chunks: AsyncIterable[bytes]
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    if_match: str | None = None
    if_none_match: str | None = None


class OutsideBucket(Protocol):
    """A bucket whose keys and content are others' too; nothing is known of it but what its server says.

    Every method must raise Unavailable, with a text that shows no address, when the server refuses or
    does not answer. Conditions are ETags without quotes, or `*`; a server that ignores them is asked
    what is there beforehand, so that two writers at the same moment may both win there.
    """

    async def stat(self, key: str) -> Entry | None:
        """Return what is there, None if nothing is."""
        ...

    def get(self, entry: Entry, start: int, end: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `start` up to, not including, `end`, in chunks of at most 1 MiB.

        It must yield bytes of that content only, and raise Conflict if it was replaced meanwhile.
        """
        ...

    async def list(
        self, prefix: str, delimiter: str | None, limit: int, token: str | None
    ) -> BucketPage:
        """Return up to `limit` objects and common prefixes, each once, in the order of the server.

        `token` is one that an earlier page gave; it must raise InvalidInput for one that is none.
        """
        ...

    async def put(self, key: str, upload: Upload) -> Entry:
        """Store an object; it must be there whole or not at all, and conditions raise Conflict.

        If the call is cancelled or its answer is lost, it may have been stored.
        """
        ...

    async def delete(self, key: str, if_match: str | None) -> bool:
        """Delete an object and tell whether it was there."""
        ...


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket as it was configured."""

    name: str
    engine: OutsideBucket
    writable: bool


Opener = Callable[[str, str], AbstractAsyncContextManager[Bucket]]


@asynccontextmanager
async def open_buckets(configured: Sequence[str]) -> AsyncGenerator[dict[str, Bucket]]:
    """Yield the buckets of `name=URL` by name; one that does not answer is found when it does.

    Raises:
        ConfigurationError: an item is malformed, or its server refuses the key or has no such bucket.
    """
    async with AsyncExitStack() as stack:
        buckets: dict[str, Bucket] = {}
        for item in configured:
            name, _, url = item.partition("=")
            _check_name(name, buckets)
            buckets[name] = await stack.enter_async_context(_opener(name, url)(name, url))
        yield buckets


def modes(configured: Sequence[str]) -> dict[str, bool]:
    """Return the names in `name=URL`, and whether the URL allows writing; nothing else is looked at."""
    parts = (item.partition("=") for item in configured)
    return {
        name: dict(parse_qsl(urlsplit(url).query)).get("mode", "").lower() == "rw"
        for name, _, url in parts
    }


def _check_name(name: str, others: Mapping[str, Bucket]) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{SETTING}: an item does not begin with a name of 1-128 letters, digits and . _ - "
            "before an =; give for example reports=s3://KEY:SECRET@HOST:9000/BUCKET"
        )
    if name in others:
        raise ConfigurationError(f"{SETTING}: {name!r} stands twice in it; give each name once")
    if name in RESERVED:
        raise ConfigurationError(
            f"{SETTING}: every tenant has a bucket {name!r} of its own; choose another name"
        )


def _opener(name: str, url: str) -> Opener:
    scheme = url.partition(":")[0]
    module = f"{__name__}.{scheme}"
    if not scheme.isidentifier() or importlib.util.find_spec(module) is None:
        raise ConfigurationError(
            f"{SETTING}: {name}: the URL is of no kind that this version knows; "
            "give s3://KEY:SECRET@HOST:9000/BUCKET"
        )
    try:
        return cast("Opener", importlib.import_module(module).open_bucket)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{SETTING}: {name}: {scheme}:// needs the package {error.name!r}; "
            f"install it with: pip install 'isthmus[{scheme}]'"
        ) from error
