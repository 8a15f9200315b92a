"""One read: a ranged answer as a stream, asked for again from where it broke off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Future

from minio.error import S3Error
from urllib3.response import BaseHTTPResponse

from mcp_server.errors import Unavailable
from mcp_server.storage.objects.s3.client import Client
from mcp_server.storage.objects.s3.threads import Threads

READ_BYTES = 1024 * 1024
# A reader whose connection breaks asks for the rest, after these pauses, in seconds.
PAUSES = (0.2, 1.0)


class Lost(Unavailable):
    """An object is shorter than was known, or the server does not know ranges."""

    def __init__(self) -> None:
        super().__init__("the object store lost bytes of this object")


class Reading:
    """Reads one object; with `etag`, only as long as it is that content."""

    def __init__(
        self, client: Client, threads: Threads, bucket: str, name: str, etag: str | None = None
    ) -> None:
        self._client = client
        self._threads = threads
        self._bucket = bucket
        self._name = name
        self._etag = etag

    async def stream(self, start: int, end: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `start` up to, not including, `end`, in chunks of at most 1 MiB.

        Raises:
            Unavailable: they are not there, or the server does not answer. Conflict: another `etag`.
        """
        pauses = iter(PAUSES)
        while start < end:
            try:
                response = await self._opened(start, end)
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

    async def _opened(self, start: int, end: int) -> BaseHTTPResponse:
        opening = self._threads.submit(self._open, start, end)
        try:
            return await self._threads.result(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unread)
            raise

    def _open(self, start: int, end: int) -> BaseHTTPResponse:
        condition = {} if self._etag is None else {"If-Match": f'"{self._etag}"'}
        try:
            response = self._client.get_object(
                self._bucket, self._name, start, end - start, request_headers={**condition}
            )
        except S3Error as error:
            if error.code in {"NoSuchKey", "InvalidRange"}:
                raise Lost from error
            raise
        span = response.headers.get("content-range", "").partition("/")[0]
        if span.removeprefix("bytes ") != f"{start}-{end - 1}":
            _close(response)
            raise Lost
        return response


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
