"""An existing bucket of an S3 server, with whatever keys others gave its objects."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from minio.datatypes import Object
from minio.error import S3Error

from mcp_server.errors import ConfigurationError, Conflict, InvalidInput
from mcp_server.storage.buckets import SETTING, Bucket, BucketPage, Entry, Upload
from mcp_server.storage.objects.s3.address import Address, parse_address
from mcp_server.storage.objects.s3.client import FAILURES, Client
from mcp_server.storage.objects.s3.reading import Reading
from mcp_server.storage.objects.s3.threads import Threads
from mcp_server.storage.objects.s3.upload import PART_BYTES, Target
from mcp_server.storage.objects.s3.upload import Upload as Sending

logger = logging.getLogger(__name__)

THREADS = 8
_MODES = {"": False, "ro": False, "rw": True}
_META = "x-amz-meta-"
_MISSING = {"NoSuchKey", "NoSuchVersion"}
_TELLING = {"NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"}


@asynccontextmanager
async def open_bucket(name: str, url: str) -> AsyncGenerator[Bucket]:
    """Open the bucket of `s3://KEY:SECRET@HOST:PORT/BUCKET?mode=rw&secure=false&prefix=…`.

    Raises:
        ConfigurationError: the URL is malformed, or the server refuses the key or has no such bucket.
    """
    try:
        address = parse_address(url, more={"mode"})
    except ValueError as error:
        raise ConfigurationError(f"{SETTING}: {name}: {error}") from error
    mode = dict(address.options).get("mode", "").lower()
    if mode not in _MODES:
        raise ConfigurationError(f"{SETTING}: {name}: mode={mode!r} is neither ro nor rw")
    client = Client(address, THREADS)
    threads = Threads(THREADS)
    try:
        await threads.run(_look, client, name, address)
        yield Bucket(name, S3Bucket(client, threads, address), _MODES[mode])
    finally:
        await threads.close(client.interrupt)
        client.close()


def _look(client: Client, name: str, address: Address) -> None:
    try:
        client.page(address.bucket, address.prefix, None, 1, None)
    except FAILURES as error:
        code = error.code if isinstance(error, S3Error) else None
        if code in _TELLING:
            raise ConfigurationError(
                f"{SETTING}: {name}: {address.endpoint} refuses bucket {address.bucket!r} ({code}); "
                "correct the bucket, the key or the secret, or let the key list there"
            ) from error
        # It is others' bucket: while it is away, everything else goes on.
        logger.warning("bucket %r does not answer (%s); it is tried again", name, error)


@dataclass(frozen=True, slots=True)
class S3Bucket:
    """See `OutsideBucket`. Keys are those below the prefix of the URL."""

    client: Client
    threads: Threads
    address: Address

    async def stat(self, key: str) -> Entry | None:
        return await self.threads.run(self._stat, key)

    def get(self, entry: Entry, start: int, end: int) -> AsyncGenerator[bytes]:
        name = self.address.prefix + entry.key
        reading = Reading(self.client, self.threads, self.address.bucket, name, entry.etag)
        return reading.stream(start, end)

    async def list(
        self, prefix: str, delimiter: str | None, limit: int, token: str | None
    ) -> BucketPage:
        return await self.threads.run(self._page, prefix, delimiter, limit, token)

    async def put(self, key: str, upload: Upload) -> Entry:
        name = self.address.prefix + key
        await self.threads.run(self._check, key, upload.if_match, upload.if_none_match)
        headers = {"Content-Type": upload.content_type}
        headers.update({_META + title: text for title, text in upload.metadata.items()})
        conditions = _conditions(upload.if_match, upload.if_none_match)
        target = Target(self.address.bucket, name, PART_BYTES, headers, conditions, fresh=False)
        sending = Sending(self.client, self.threads, target)
        try:
            sent = await sending.send(upload.chunks)
        except BaseException:
            await self.threads.afterwards(sending.abandon())
            raise
        return Entry(key, sent.size, sent.etag, None, upload.content_type, upload.metadata)

    async def delete(self, key: str, if_match: str | None) -> bool:
        return await self.threads.run(self._delete, key, if_match)

    def _stat(self, key: str) -> Entry | None:
        try:
            found = self.client.stat_object(self.address.bucket, self.address.prefix + key)
        except S3Error as error:
            if error.code in _MISSING:
                return None
            raise
        headers = {title.lower(): text for title, text in (found.metadata or {}).items()}
        metadata = {
            title.removeprefix(_META): text
            for title, text in headers.items()
            if title.startswith(_META)
        }
        kind = found.content_type or "application/octet-stream"
        return Entry(key, found.size or 0, found.etag or "", found.last_modified, kind, metadata)

    def _page(
        self, prefix: str, delimiter: str | None, limit: int, token: str | None
    ) -> BucketPage:
        start = self.address.prefix
        try:
            found, following = self.client.page(
                self.address.bucket, start + prefix, delimiter, limit, token
            )
        except S3Error as error:
            if token is not None and error.code in {"InvalidArgument", "InvalidToken"}:
                raise InvalidInput(
                    "cursor: the bucket's server does not know it; begin again without",
                    param="cursor",
                ) from error
            raise
        entries = [_entry(item, start) for item in found if item.last_modified is not None]
        folded = [item.object_name or "" for item in found if item.last_modified is None]
        return BucketPage(entries, [name.removeprefix(start) for name in folded], following)

    def _check(self, key: str, if_match: str | None, if_none_match: str | None) -> None:
        """Look beforehand: not every server decides conditions itself."""
        if if_match is None and if_none_match is None:
            return
        found = self._stat(key)
        if if_match is not None and (found is None or if_match not in {"*", found.etag}):
            is_there = "there is no such object" if found is None else f"etag is {found.etag}"
            raise Conflict(is_there, param="if_match")
        if found is not None and if_none_match in {"*", found.etag}:
            raise Conflict(f"the object exists, etag is {found.etag}", param="if_none_match")

    def _delete(self, key: str, if_match: str | None) -> bool:
        self._check(key, if_match, None)
        there = self._stat(key) is not None
        if there:
            name = self.address.prefix + key
            self.client.delete(self.address.bucket, name, _conditions(if_match, None))
        return there


def _entry(item: Object, start: str) -> Entry:
    key = (item.object_name or "").removeprefix(start)
    return Entry(key, item.size or 0, item.etag or "", item.last_modified)


def _conditions(if_match: str | None, if_none_match: str | None) -> dict[str, str]:
    """Return the headers; S3 knows no `If-None-Match` but `*` and takes no list."""
    headers: dict[str, str] = {}
    if if_match is not None and if_match != "*":
        headers["If-Match"] = f'"{if_match}"'
    if if_none_match == "*":
        headers["If-None-Match"] = "*"
    return headers
