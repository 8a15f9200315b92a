"""Blobs as objects of one bucket under random names; what one means is the manifest's matter."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from minio.datatypes import Object

from mcp_server.errors import Unavailable
from mcp_server.storage.objects import Blob, StoredBlob
from mcp_server.storage.objects.s3.client import Client
from mcp_server.storage.objects.s3.reading import Reading
from mcp_server.storage.objects.s3.threads import Threads
from mcp_server.storage.objects.s3.upload import Target, Upload

PAGE = 1000
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
        target = Target(place.bucket, place.name(key), place.part_size)
        upload = Upload(self._client, self._threads, target)
        self._uploads.add(upload)
        try:
            size, sha256, md5, _ = await upload.send(chunks)
            return Blob(key, size, sha256, md5)
        except BaseException:
            await self._threads.afterwards(upload.abandon())
            raise
        finally:
            self._uploads.discard(upload)

    def get(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        return self._stream(self._place.name(_checked(key)), start, end)

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

    def _stream(self, name: str, start: int, end: int) -> AsyncGenerator[bytes]:
        return Reading(self._client, self._threads, self._place.bucket, name).stream(start, end)


def _page(found: Iterator[Object]) -> list[Object]:
    return list(islice(found, PAGE))


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise Unavailable("this is no key of the blob store")
    return key
