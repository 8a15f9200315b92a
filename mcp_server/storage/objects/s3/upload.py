"""One put: parts of equal size go out while the next one is gathered, and become a blob all at once."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncIterable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from minio.datatypes import Part

from mcp_server.errors import InvalidInput
from mcp_server.storage.objects.s3.client import Client
from mcp_server.storage.objects.s3.threads import Threads

T = TypeVar("T")

MIB = 1024 * 1024
PART_BYTES = 8 * MIB
MOST_PARTS = 10_000  # S3's own bound
# So many parts are on their way while another one is gathered.
PARTS_AT_ONCE = 2


def part_bytes(most: int) -> int:
    """Return the size of parts with which a blob of `most` bytes can be stored: 8 MiB up to 78 GiB."""
    return max(PART_BYTES, -(-most // (MOST_PARTS * MIB)) * MIB)


@dataclass(frozen=True, slots=True)
class Target:
    """Where an upload goes. `headers` say what it is; `conditions` are headers that decide at its end.

    A `fresh` name was never used before, so that what stands under it after a failure may go.
    """

    bucket: str
    name: str
    part_size: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    conditions: Mapping[str, str] = field(default_factory=dict[str, str])
    fresh: bool = True


class Sent(NamedTuple):
    """What was stored; `etag` is the server's."""

    size: int
    sha256: str
    md5: str
    etag: str


class Upload:
    """Writes one object. What fits one part is put at once, and is whole or not there."""

    def __init__(self, client: Client, threads: Threads, target: Target) -> None:
        self._client = client
        self._threads = threads
        self._target = target
        self._part_size = target.part_size
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sending: deque[Future[Part]] = deque()
        self._last: Future[Any] | None = None
        self._parts: list[Part] = []
        self.id: str | None = None

    async def send(self, chunks: AsyncIterable[bytes]) -> Sent:
        """Store all of it under the name."""
        async for chunk in chunks:
            while chunk:
                room = self._part_size - self._gathered_bytes
                self._gathered.append(chunk[:room])
                self._gathered_bytes += len(self._gathered[-1])
                chunk = chunk[room:]  # noqa: PLW2901 - what is left of it; most fit whole and are not copied
                if self._gathered_bytes == self._part_size:
                    await self._send_part()
        etag = await (self._do(self._put) if self.id is None else self._complete())
        return Sent(self._size, self._sha256.hexdigest(), self._md5.hexdigest(), etag)

    async def abandon(self) -> None:
        """Remove what was sent, when the threads that send it are through."""
        for work in (*self._sending, self._last):
            if work is not None:
                await self._threads.ended(work)
        await self._threads.run(self._remove)

    async def _send_part(self) -> None:
        body = await self._threads.run(self._seal)
        if self.id is None:
            await self._do(self._begin)
        number = len(self._parts) + len(self._sending) + 1
        if number > MOST_PARTS:
            raise InvalidInput(
                f"the object is larger than {MOST_PARTS * self._part_size} bytes, "
                "more than the object store takes with the present ISTHMUS_MAX_OBJECT_BYTES"
            )
        if len(self._sending) == PARTS_AT_ONCE:
            await self._oldest()
        at = self._target
        self._sending.append(
            self._threads.submit(self._client.send_part, at.bucket, at.name, self.id, number, body)
        )

    async def _oldest(self) -> None:
        part = await self._threads.result(self._sending[0], linger=0)
        self._sending.popleft()
        self._parts.append(part)

    async def _complete(self) -> str:
        if self._gathered:
            await self._send_part()
        while self._sending:
            await self._oldest()
        at = self._target
        return await self._do(
            self._client.complete, at.bucket, at.name, self.id, self._parts, at.conditions
        )

    async def _do(self, function: Callable[..., T], *arguments: object) -> T:
        self._last = work = self._threads.submit(function, *arguments)
        return await self._threads.result(work, linger=0)  # `abandon` waits

    def _put(self) -> str:
        at = self._target
        headers = {**at.headers, **at.conditions}
        return self._client.put(at.bucket, at.name, self._seal(), headers)

    def _begin(self) -> None:
        at = self._target
        self.id = self._client.begin(at.bucket, at.name, at.headers)

    def _seal(self) -> bytes:
        body = b"".join(self._gathered)
        self._gathered, self._gathered_bytes = [], 0
        self._size += len(body)
        self._sha256.update(body)
        self._md5.update(body)
        return body

    def _remove(self) -> None:
        at = self._target
        if self.id is not None:
            self._client.abort(at.bucket, at.name, self.id)
        # The whole may be there by now: what completes it was under way, or its answer got lost.
        if self._last is not None and at.fresh:
            self._client.remove_object(at.bucket, at.name)
