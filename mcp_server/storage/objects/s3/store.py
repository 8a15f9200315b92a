"""Blobs as objects of one bucket under random names; what one means is the manifest's matter."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from minio.datatypes import Object
from minio.error import S3Error
from urllib3.response import BaseHTTPResponse

from mcp_server.errors import Unavailable
from mcp_server.storage.objects import Blob, StoredBlob
from mcp_server.storage.objects.s3.client import Client
from mcp_server.storage.objects.s3.threads import Threads
from mcp_server.storage.objects.s3.upload import MIB, Upload

READ_BYTES = MIB
PAGE = 1000
# A reader whose connection breaks asks for the rest, after these pauses, in seconds.
PAUSES = (0.2, 1.0)
_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket and the prefix under which the blobs are; `part_size` in bytes."""

    bucket: str
    prefix: str
    part_size: int

    def name(self, key: str) -> str:
        return f"{self.prefix}{key}"


class S3Store:
    """A `BlobStore` in a bucket; `PREFIX/0123abcd…` are blobs.

    A put that fits one part is one request. A longer one is a multipart upload, which nobody sees
    until it is completed; one of another process in which no part arrived since `before` counts as
    dead.
    """

    def __init__(self, client: Client, threads: Threads, place: Place) -> None:
        self._client = client
        self._threads = threads
        self._place = place
        self._uploads: set[Upload] = set()

    async def put(self, chunks: AsyncIterable[bytes]) -> Blob:
        key = secrets.token_hex(16)
        place = self._place
        upload = Upload(self._client, self._threads, place.bucket, place.name(key), place.part_size)
        self._uploads.add(upload)
        try:
            return await upload.send(key, chunks)
        except BaseException:
            await self._threads.afterwards(_quietly(upload))
            raise
        finally:
            self._uploads.discard(upload)

    def get(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        return self._stream(self._place.name(_checked(key)), start, end)

    async def _stream(self, name: str, start: int, end: int) -> AsyncGenerator[bytes]:
        pauses = iter(PAUSES)
        while start < end:
            try:
                response = await self._opened(name, start, end)
                try:
                    while start < end:
                        size = min(READ_BYTES, end - start)
                        reading = self._threads.submit(_read, response, size)
                        chunk = await self._threads.result(reading, stop=response.shutdown)
                        start += len(chunk)
                        yield chunk
                finally:
                    _close(response)
            except Unavailable as error:
                pause = next(pauses, None)
                if pause is None or isinstance(error, Lost):
                    raise
                await asyncio.sleep(pause)

    async def delete(self, key: str) -> None:
        if _KEY.fullmatch(key):  # another engine's key names nothing here
            await self._threads.run(
                self._client.remove_object, self._place.bucket, self._place.name(key)
            )

    async def list(self) -> AsyncGenerator[StoredBlob]:
        place = self._place
        found = self._client.list_objects(place.bucket, prefix=place.prefix, recursive=True)
        while page := await self._threads.run(_page, found):
            for item in page:
                key = (item.object_name or "").removeprefix(place.prefix)
                if _KEY.fullmatch(key) and item.last_modified is not None:
                    yield StoredBlob(key, item.last_modified)

    async def discard_unfinished(self, before: datetime) -> int:
        living = frozenset(upload.id for upload in self._uploads if upload.id is not None)
        return await self._threads.run(
            self._client.abort_stale, self._place.bucket, self._place.prefix, before, living
        )

    async def answers(self) -> None:
        there = await self._threads.run(self._client.bucket_exists, self._place.bucket)
        if not there:
            raise Unavailable("the object store's bucket is gone")

    async def _opened(self, name: str, start: int, end: int) -> BaseHTTPResponse:
        opening = self._threads.submit(self._open, name, start, end)
        try:
            return await self._threads.result(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unread)
            raise

    def _open(self, name: str, start: int, end: int) -> BaseHTTPResponse:
        try:
            response = self._client.get_object(self._place.bucket, name, start, end - start)
        except S3Error as error:
            if error.code in {"NoSuchKey", "InvalidRange"}:
                raise Lost from error
            raise
        spans = response.headers.get("content-range", "").partition("/")[0]
        if spans.removeprefix("bytes ") != f"{start}-{end - 1}":
            _close(response)
            raise Lost
        return response


class Lost(Unavailable):
    """A blob is shorter than its row says, or the server does not know ranges."""

    def __init__(self) -> None:
        super().__init__("the object store lost bytes of this object")


async def _quietly(upload: Upload) -> None:
    # What cannot be removed now is found later: by discard_unfinished, or as an orphan.
    with contextlib.suppress(Unavailable):
        await upload.abandon()


def _read(response: BaseHTTPResponse, size: int) -> bytes:
    chunk = response.read(size, decode_content=False)
    if not chunk:
        raise OSError("the answer ended early")
    return chunk


def _close(response: BaseHTTPResponse) -> None:
    response.close()
    response.release_conn()


def _close_unread(opening: Future[BaseHTTPResponse]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        _close(opening.result())


def _page(found: Iterator[Object]) -> list[Object]:
    return list(islice(found, PAGE))


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise Unavailable("this is no key of the blob store")
    return key
