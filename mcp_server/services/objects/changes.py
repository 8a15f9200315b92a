"""The writes that move no bytes: a copy, and other metadata or tags."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import Conflict, NotFound
from mcp_server.operation import Operation
from mcp_server.policy import Verb
from mcp_server.services.objects import manifest, shapes
from mcp_server.services.objects.addresses import Address
from mcp_server.services.objects.conditions import Condition
from mcp_server.services.objects.drafts import Stores
from mcp_server.services.objects.manifest import Payload
from mcp_server.services.writes import Record


@dataclass(slots=True)
class _Change:
    """One write whose content is found among what is stored, under the locks of its transaction."""

    stores: Stores
    at: Address

    @property
    def uri(self) -> str:
        return self.at.uri

    @property
    def verb(self) -> Verb:
        return "write"

    async def prepare(self, op: Operation) -> None:
        del op

    async def abandon(self) -> None:
        return None

    def record(self) -> Record:
        raise Conflict("a copy or a change of tags cannot be part of a unit of work")


@dataclass(slots=True)
class CopyDraft(_Change):
    """Gives the target the source's blob: blobs never change, so both may name it."""

    source: Address
    version: int | None
    source_condition: Condition
    condition: Condition

    @property
    def effect(self) -> str:
        return "copy"

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        """Copy.

        Raises:
            NotFound: there is no such source. Conflict: a condition does not hold.
        """
        rows = await manifest.lock_all(tx, [self.source, self.at])
        row = await self._find(tx, rows[self.source])
        self.source_condition.check(row)
        if row is None:
            what = f"object {self.source.key!r}"
            if self.version is not None:
                what = f"version {self.version} of {what}"
            raise NotFound(f"{what} does not exist in bucket {self.source.bucket!r}", param="key")
        payload = replace(Payload.of_row(row), id=None)
        keep = self.stores.keep
        written = await manifest.write(tx, op, self.at, payload, self.condition, keep=keep)
        return dict(shapes.info(written))

    async def _find(self, tx: AsyncConnection, present: Row[Any] | None) -> Row[Any] | None:
        if self.version is None or (present is not None and present.version == self.version):
            return present
        return await manifest.find_version(tx, self.source, self.version, hold=True)


@dataclass(slots=True)
class TagDraft(_Change):
    """Replaces metadata, tags or both: a new version with the same bytes."""

    metadata: dict[str, str] | None
    tags: dict[str, str] | None
    condition: Condition

    @property
    def effect(self) -> str:
        return "tag"

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        """Write the other metadata and tags.

        Raises:
            NotFound: there is no such object. Conflict: it is not what the condition asks for.
        """
        row = await manifest.lock(tx, self.at)
        if row is None:
            raise NotFound(
                f"object {self.at.key!r} does not exist in bucket {self.at.bucket!r}", param="key"
            )
        before = Payload.of_row(row)
        payload = replace(
            before,
            metadata=before.metadata if self.metadata is None else self.metadata,
            tags=before.tags if self.tags is None else self.tags,
        )
        keep = self.stores.keep
        written = await manifest.write(tx, op, self.at, payload, self.condition, keep=keep)
        return dict(shapes.info(written))
