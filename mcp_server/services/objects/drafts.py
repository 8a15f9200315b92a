"""The writes of objects as drafts: alone, undone, or together with others in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import AppError, Conflict
from mcp_server.operation import Operation
from mcp_server.policy import Verb
from mcp_server.services.objects import manifest, shapes
from mcp_server.services.objects.addresses import Address
from mcp_server.services.objects.conditions import Condition, Current, Every, Guard
from mcp_server.services.objects.manifest import Payload
from mcp_server.services.writes import Record
from mcp_server.storage.objects import BlobStore

ANYTHING = Condition()


@dataclass(frozen=True, slots=True)
class Stores:
    """Where objects are; `keep` says whether versions outlive what replaces them."""

    control: AsyncEngine
    blobs: BlobStore
    keep: bool


@dataclass(slots=True)
class _Draft:
    """One write to one object."""

    stores: Stores
    at: Address

    @property
    def uri(self) -> str:
        return self.at.uri

    @property
    def verb(self) -> Verb:
        return "write"

    async def abandon(self) -> None:
        return None


@dataclass(slots=True)
class WriteDraft(_Draft):
    """Stores new content: the bytes are uploaded by `prepare` and named by `apply`."""

    chunks: AsyncIterable[bytes]
    content_type: str
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    tags: dict[str, str] = field(default_factory=dict[str, str])
    condition: Condition | Every = ANYTHING
    _payload: Payload | None = None

    @property
    def effect(self) -> str:
        return "write"

    async def prepare(self, op: Operation) -> None:
        """Upload the bytes.

        Raises:
            Conflict: the present object is not what the condition asks for.
        """
        # To spare the upload; it is decided again under a lock. A step that comes back may find what
        # it wrote itself.
        if self.condition and op.key is None:
            self.condition.check(await manifest.find(self.stores.control, self.at))
        blob = await self.stores.blobs.put(self.chunks)
        self._payload = Payload.of_blob(blob, self.content_type, self.metadata, self.tags)

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        """Name the uploaded blob.

        Raises:
            Conflict: the present object, now locked, is not what the condition asks for.
        """
        keep = self.stores.keep
        row = await manifest.write(
            tx, op, self.at, _prepared(self._payload), self.condition, keep=keep
        )
        return dict(shapes.info(row))

    async def abandon(self) -> None:
        if self._payload is not None:
            with suppress(AppError):
                await self.stores.blobs.delete(self._payload.blob)

    def record(self) -> Record:
        return record_of(_prepared(self._payload))


@dataclass(slots=True)
class RecordedDraft(_Draft):
    """Writes what another draft has prepared; the blob belongs to whoever holds its record."""

    payload: Payload

    @property
    def effect(self) -> str:
        return "write"

    async def prepare(self, op: Operation) -> None:
        del op

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        keep = self.stores.keep
        row = await manifest.write(tx, op, self.at, self.payload, ANYTHING, keep=keep)
        return dict(shapes.info(row))

    def record(self) -> Record:
        return record_of(self.payload)


@dataclass(slots=True)
class DeleteDraft(_Draft):
    """Deletes what the guard lets go."""

    guard: Guard = ANYTHING

    @property
    def effect(self) -> str:
        return "delete"

    async def prepare(self, op: Operation) -> None:
        del op

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        keep = self.stores.keep
        return {"deleted": await manifest.remove(tx, op, self.at, self.guard, keep=keep)}

    def record(self) -> Record:
        return Record({"delete": True})


@dataclass(slots=True)
class RestoreDraft(_Draft):
    """Makes an earlier version current again, as a new version with the same bytes."""

    version: int
    expected: int
    _payload: Payload | None = None

    @property
    def effect(self) -> str:
        return "write"

    async def prepare(self, op: Operation) -> None:
        """Find the version.

        Raises:
            Conflict: another one is current than expected, or it is not kept any more.
        """
        del op
        async with self.stores.control.connect() as connection:
            self._payload = await self._find(connection, hold=False)
        Current(self.expected).check(await manifest.find(self.stores.control, self.at))

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        """Write the version again.

        Raises:
            Conflict: another one is current than expected, or it is not kept any more.
        """
        payload = await self._find(tx, hold=True)
        guard, keep = Current(self.expected), self.stores.keep
        row = await manifest.write(tx, op, self.at, payload, guard, keep=keep)
        return dict(shapes.info(row))

    def record(self) -> Record:
        return record_of(_prepared(self._payload))

    async def _find(self, tx: AsyncConnection, *, hold: bool) -> Payload:
        row = await manifest.find_version(tx, self.at, self.version, hold=hold)
        if row is None:
            raise Conflict(
                f"version {self.version} of {self.at.uri} is not kept any more (ISTHMUS_UNDO_DAYS)"
            )
        return Payload.of_row(row)


def record_of(payload: Payload) -> Record:
    return Record({"write": asdict(payload)}, (payload.blob,))


def _prepared(payload: Payload | None) -> Payload:
    if payload is None:
        raise RuntimeError("a draft is used before it was prepared")
    return payload
