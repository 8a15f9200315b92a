"""Presigned URLs: clients move bytes to and from the bucket itself, for a minute or so."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime, timedelta

from minio.error import S3Error

from mcp_server.errors import NotFound
from mcp_server.storage.objects.s3.client import Client
from mcp_server.storage.objects.s3.store import Place, S3Store
from mcp_server.storage.objects.s3.threads import Threads

_SLOT = re.compile(r"[0-9a-f]{32}")


class LinkingS3Store(S3Store):
    """An `S3Store` whose bucket clients reach too: it is `Presigning`. `signer` knows their host."""

    def __init__(self, client: Client, threads: Threads, place: Place, signer: Client) -> None:
        super().__init__(client, threads, place)
        self._signer = signer

    def link_to_get(self, key: str, *, seconds: int, content_type: str, disposition: str) -> str:
        answer = {
            "response-content-type": content_type,
            "response-content-disposition": disposition,
        }
        return self._link("GET", self._place.name(key), seconds, answer)

    def link_to_put(self, *, seconds: int) -> tuple[str, str]:
        slot = secrets.token_hex(16)
        return slot, self._link("PUT", self._slot(slot), seconds, {})

    async def received(self, slot: str) -> AsyncGenerator[bytes]:
        size = await self._threads.run(self._size, slot)
        if size is None:
            raise NotFound("nothing was uploaded by this link")
        async with aclosing(self._stream(self._slot(slot), 0, size)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def drop(self, slot: str) -> None:
        if _SLOT.fullmatch(slot):
            await self._threads.run(
                self._client.remove_object, self._place.bucket, self._slot(slot)
            )

    async def discard_unfinished(self, before: datetime) -> int:
        """Remove what came by links and was never taken, too."""
        slots = await self._threads.run(self._stale_slots, before)
        for slot in slots:
            await self.drop(slot)
        return len(slots) + await super().discard_unfinished(before)

    def _link(self, method: str, name: str, seconds: int, query: dict[str, str]) -> str:
        return self._signer.get_presigned_url(
            method,
            self._place.bucket,
            name,
            expires=timedelta(seconds=seconds),
            response_headers={**query},
        )

    def _slot(self, slot: str) -> str:
        return self._place.name(f"incoming/{slot}")

    def _size(self, slot: str) -> int | None:
        if not _SLOT.fullmatch(slot):
            return None
        try:
            return self._client.stat_object(self._place.bucket, self._slot(slot)).size
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None
            raise

    def _stale_slots(self, before: datetime) -> list[str]:
        start = self._slot("")
        found = self._client.list_objects(self._place.bucket, prefix=start)
        return [
            (item.object_name or "").removeprefix(start)
            for item in found
            if item.last_modified is not None and item.last_modified < before
        ]
