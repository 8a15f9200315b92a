"""Writes to durable keys as drafts, for single calls, undo and units of work."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import Conflict, Unavailable
from mcp_server.operation import Operation
from mcp_server.policy import Verb
from mcp_server.services.kv import durable
from mcp_server.services.kv.items import (
    Address,
    KvDeleted,
    KvItem,
    Terms,
    VersionConflict,
    encode,
)
from mcp_server.services.kv.numbers import add
from mcp_server.services.writes import Draft, Record
from mcp_server.storage.sql.kv_tables import kv_versions
from mcp_server.timestamps import iso_or_none

_VERB: Verb = "write"


@dataclass(slots=True)
class _Draft:
    """What all writes to one key have in common: nothing is slow, so nothing has to be prepared."""

    at: Address
    keep: bool
    effect: str = field(init=False, default="write")

    @property
    def uri(self) -> str:
        return self.at.uri

    @property
    def verb(self) -> Verb:
        return _VERB

    async def prepare(self, op: Operation) -> None:
        del op

    async def abandon(self) -> None:
        return None


@dataclass(slots=True)
class KvWrite(_Draft):
    """One value, encoded already, and the terms on which it is written."""

    value: Any
    encoded: str
    terms: Terms

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        done = await durable.write(tx, self.at, self.encoded, self.terms, keep=self.keep)
        await op.journal(tx, version=done.version, prev_version=done.before)
        answer = KvItem(
            key=self.at.key,
            namespace=self.at.namespace,
            value=self.value,
            version=done.version,
            expires_at=iso_or_none(done.expires_at),
        )
        return {**answer}

    def record(self) -> Record:
        until = self.terms.expires_at
        content: dict[str, Any] = {"value": self.value, "ttl": self.terms.ttl}
        return Record(content | {"expires_at": None if until is None else until.isoformat()})


@dataclass(slots=True)
class KvIncrement(_Draft):
    """A number that is added to the key's; a key that is not there counts as 0, and lives for `ttl`."""

    by: float
    ttl: float | None

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        for _ in range(durable.TURNS):
            row = await durable.read(tx, self.at, lock=True)
            if row is None:
                total, terms = add(0, self.by), Terms(expected=0, ttl=self.ttl)
            else:
                total = add(row.value, self.by)
                terms = Terms(expected=row.version, expires_at=row.expires_at)
            with suppress(VersionConflict):  # made meanwhile, or expired
                return await KvWrite(self.at, self.keep, total, encode(total), terms).apply(tx, op)
        raise Unavailable("other writers keep making and deleting this key; try again")

    def record(self) -> Record:
        return Record({"by": self.by, "ttl": self.ttl})


@dataclass(slots=True)
class KvDelete(_Draft):
    """The end of one key, on the term that it has the `expected` version."""

    expected: int | None = None

    def __post_init__(self) -> None:
        self.effect = "delete"

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        before = await durable.delete(tx, self.at, self.expected, keep=self.keep)
        if before is not None:
            await op.journal(tx, verb="delete", prev_version=before)
        return {**KvDeleted(deleted=before is not None)}

    def record(self) -> Record:
        return Record({"delete": True})


@dataclass(slots=True)
class KvRestore(_Draft):
    """An earlier version of one key, None for its absence, if the `expected` one is still current."""

    control: AsyncEngine
    version: int | None
    expected: int
    _found: KvWrite | KvDelete | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.effect = "delete" if self.version is None else "write"

    async def prepare(self, op: Operation) -> None:
        """Find the version.

        Raises:
            Conflict: it is not kept any more, or has expired meanwhile.
        """
        del op
        if self.version is None:
            self._found = KvDelete(self.at, self.keep, self.expected)
            return
        query = select(kv_versions, durable.alive(kv_versions).label("alive")).where(
            kv_versions.c.tenant == self.at.tenant,
            kv_versions.c.version == self.version,
            kv_versions.c.namespace == self.at.namespace,
            kv_versions.c.key == self.at.key,
        )
        async with self.control.connect() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            raise Conflict(f"version {self.version} of this key is not kept any more")
        if not row.alive:
            raise Conflict(f"version {self.version} of this key would have expired by now")
        terms = Terms(expected=self.expected, expires_at=row.expires_at)
        self._found = KvWrite(self.at, self.keep, row.value, encode(row.value), terms)

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        try:
            return await self._prepared().apply(tx, op)
        except VersionConflict as error:
            raise Conflict(f"changed since, version is {error.current}") from error

    def record(self) -> Record:
        return self._prepared().record()

    def _prepared(self) -> KvWrite | KvDelete:
        if self._found is None:
            raise RuntimeError("the draft has not been prepared")
        return self._found


def recorded(at: Address, record: Record, *, keep: bool) -> Draft:
    """Return the draft of a record, without conditions."""
    content = record.content
    if content.get("delete"):
        return KvDelete(at, keep)
    if "by" in content:
        return KvIncrement(at, keep, content["by"], content["ttl"])
    until = content["expires_at"]
    terms = Terms(ttl=content["ttl"], expires_at=until and datetime.fromisoformat(until))
    value = content["value"]
    return KvWrite(at, keep, value, encode(value), terms)
