"""Images and files that a conversation shows a model: the tenant's own by their id, others by their URL."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, LimitExceeded
from mcp_server.fetch import Fetcher
from mcp_server.operation import Operations
from mcp_server.services.pages import open_page

if TYPE_CHECKING:
    from mcp_server.services.objects import ObjectService

BUCKET = "files"
"""The bucket whose objects are OpenAI's files; an object's key is the file's id."""

_SECONDS = 30.0
_NAME = "filename"
_UNKNOWN = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Media:
    """The bytes, their media type without parameters, and a name for people."""

    data: bytes
    media_type: str
    name: str


class Files(Protocol):
    """Where files are read, in this process or in another."""

    async def read(self, principal: Principal, file: str, max_bytes: int) -> Media:
        """Return a file of the tenant.

        It must raise NotFound for an unknown id, and LimitExceeded, before it reads on, for a file that
        is larger than `max_bytes`.
        """
        ...


class StoredFiles:
    """Reads files where their bytes are."""

    def __init__(self, objects: ObjectService) -> None:
        self._objects = objects

    async def read(self, principal: Principal, file: str, max_bytes: int) -> Media:
        """Read a file of the tenant."""
        stat = await self._objects.stat(principal, BUCKET, file)
        info, stream = await self._objects.open(principal, BUCKET, file)
        async with aclosing(stream):
            if info["size"] > max_bytes:
                raise too_large(max_bytes)
            data = b"".join([part async for part in stream])
        return media_of(data, info["content_type"], stat["metadata"], file)


class MediaService:
    """Each method is one operation: on the file's object, or on what the URL names."""

    def __init__(self, operation: Operations, files: Files, fetcher: Fetcher) -> None:
        self._operation = operation
        self._files = files
        self._fetcher = fetcher

    async def of_file(self, principal: Principal, file: str, max_bytes: int) -> Media:
        """Read a file of the tenant.

        Raises:
            NotFound: there is none with this id. LimitExceeded: it is larger than `max_bytes`.
        """
        return await self._files.read(principal, file, max_bytes)

    async def of_url(self, principal: Principal, url: str, max_bytes: int) -> Media:
        """Fetch what a URL names, through the guard that keeps it from what is inside.

        Raises:
            InvalidInput: the URL may not be reached. LimitExceeded: the answer is larger than
                `max_bytes`. Timeout, Unavailable: no answer.
        """
        if not url.lower().startswith(("http://", "https://")):
            raise InvalidInput("only http, https and data URLs can be shown to a model")
        async with open_page(
            *(self._operation, self._fetcher, principal, url), max_bytes=max_bytes, seconds=_SECONDS
        ) as fetched:
            data = await fetched.read()
            name = unquote(urlsplit(fetched.url).path).rpartition("/")[2]
            return Media(data, _plain(fetched.content_type or _UNKNOWN), name or "file")


def media_of(data: bytes, content_type: str, metadata: Mapping[str, str], file: str) -> Media:
    """Return a stored file as it is shown."""
    return Media(data, _plain(content_type), metadata.get(_NAME) or file)


def too_large(max_bytes: int) -> LimitExceeded:
    """Return the refusal of a file."""
    return LimitExceeded(f"it is larger than {max_bytes} bytes")


def _plain(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
