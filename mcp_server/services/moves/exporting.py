"""The work of an export: everything at one position of the journal, then the bytes of objects, which never change."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import Conflict, Unavailable
from mcp_server.placement import Placements
from mcp_server.runs.context import RunContext
from mcp_server.runs.record import Outcome
from mcp_server.services.moves import control_tables, moved_effects, moved_vectors
from mcp_server.services.moves.archive import Archive, Manifest, Tell
from mcp_server.storage.objects import BlobStore
from mcp_server.storage.sql.control import revision
from mcp_server.storage.sql.dump import dump_schema
from mcp_server.storage.sql.owner import Owner
from mcp_server.storage.sql.standstill import standstill
from mcp_server.storage.sql.wire import connect_owner
from mcp_server.storage.vectors import VectorEngine
from mcp_server.timestamps import iso

KIND = "export"
BLOBS = "blobs.jsonl"

_POSITION = text("select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text")
_SCHEMAS = "select nspname::text from pg_namespace"
_NO_LIMIT = text("set local idle_in_transaction_session_timeout = 0")
_COUNTER = "select case when is_called then last_value else 0 end from version_{id}"
# What was overwritten or deleted can be brought back where it goes, so its bytes go as well.
_NAMED = text(
    """
    select blob, max(size) as size, max(sha256) as sha256 from (
        select blob, size, sha256 from objects
        union all select blob, size, sha256 from object_versions) as named
    group by blob order by blob
    """
)
_PIN = text(
    "insert into pinned_blobs (blob, holder) select unnest(cast(:blobs as text[])), :holder"
    " on conflict do nothing"
)
_UNPIN = text("delete from pinned_blobs where holder = :holder")
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Both databases at one position: `tx` reads the control database, `data` names the other's snapshot.

    `schemas` are those that the other has in it.
    """

    tx: AsyncConnection
    data: str
    schemas: frozenset[str]
    position: str


class Exporting:
    """Executes runs of kind `export`; their input names the directory.

    Interrupted while it reads the databases, it begins again at a new position; later it goes on with
    the bytes that are missing.
    """

    def __init__(
        self,
        control: AsyncEngine,
        owner: Owner,
        data_url: str,
        blobs: BlobStore,
        vectors: VectorEngine,
        statement_seconds: float,
    ) -> None:
        self._control, self._owner, self._data_url = control, owner, data_url
        self._blobs, self._vectors = blobs, vectors
        self._seconds = statement_seconds

    async def __call__(self, context: RunContext) -> Outcome:
        """Export.

        Raises:
            AppError: an engine does not answer, or the directory holds something else.
        """
        archive = Archive(Path(context.run.input["directory"]))
        archive.make()
        manifest = archive.read()
        if manifest is None:
            async with self._snapshot() as snapshot:
                manifest = await self._databases(archive, snapshot, context.progress)
                archive.write(manifest)
        if not manifest.complete:
            await self._bytes(archive, manifest, context.progress)
            manifest.complete = True
            archive.write(manifest)
        async with self._control.begin() as tx:
            await tx.execute(_UNPIN, {"holder": _holder(archive)})
        told = {
            "directory": str(archive.root),
            "position": manifest.position,
            "tenants": len(manifest.tenants),
            "rows": sum(part.rows for part in manifest.parts.values()),
            "blobs": manifest.blobs,
            "bytes": manifest.blob_bytes + sum(part.bytes for part in manifest.parts.values()),
        }
        return Outcome(status="completed", output=told)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncGenerator[Snapshot]:
        reading = self._control.execution_options(isolation_level="REPEATABLE READ")
        try:
            owner = await connect_owner(self._data_url)
        except OSError as error:
            raise Unavailable("the data database does not answer; try again") from error
        try:
            async with reading.connect() as tx:
                async with standstill(self._control, self._seconds):
                    await tx.execute(_NO_LIMIT)
                    position = await tx.scalar(_POSITION)
                    await owner.execute("begin isolation level repeatable read read only")
                    data = await owner.fetchval("select pg_export_snapshot()")
                schemas = frozenset(row[0] for row in await owner.fetch(_SCHEMAS))
                yield Snapshot(tx, data, schemas, f"{position}.{2**62}")
                await tx.rollback()
        finally:
            await owner.close()

    async def _databases(self, archive: Archive, snapshot: Snapshot, tell: Tell) -> Manifest:
        tx = snapshot.tx
        manifest = Manifest(
            revision=await revision(tx) or "",
            position=snapshot.position,
            tenants=await _tenants(tx),
            created_at=iso(datetime.now(UTC)),
        )
        # First: what is garbage since the snapshot is collected some minutes later.
        await self._list_blobs(archive, manifest, tx)
        tables = await control_tables.tables(tx)
        total = len(tables) + len(manifest.tenants) + 2
        for done, (table, columns) in enumerate(tables.items()):
            tell(done, total, table)
            name = f"control/{table}.copy"
            async with archive.writing(name) as write:
                await control_tables.copy_out(tx, table, columns, write)
            manifest.parts[name] = write.part
        for done, tenant in enumerate(sorted(manifest.tenants), len(tables)):
            tell(done, total, f"SQL of tenant {tenant}")
            await self._dump(archive, manifest, tenant, snapshot)
        tell(total - 2, total, "vectors")
        name, part = await moved_vectors.write(archive, tx, self._vectors)
        manifest.parts[name] = part
        tell(total - 1, total, "marks of statements")
        name, part = await moved_effects.write(
            *(archive, self._data_url, self._owner.roles, snapshot.data, manifest.tenants)
        )
        manifest.parts[name] = part
        tell(total, total, "databases")
        return manifest

    async def _dump(
        self, archive: Archive, manifest: Manifest, tenant: str, snapshot: Snapshot
    ) -> None:
        schema = Placements(self._data_url)(tenant).schema
        if schema not in snapshot.schemas:
            return  # it never used SQL
        name = f"sql/{schema}.dump"
        path = archive.part(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await dump_schema(self._data_url, schema, snapshot.data, path)
        manifest.parts[name] = await archive.measured(name)

    async def _list_blobs(self, archive: Archive, manifest: Manifest, tx: AsyncConnection) -> None:
        """List the blobs that the snapshot's rows name, and keep them until their bytes are here."""
        rows = (await tx.execute(_NAMED)).all()
        async with archive.writing(BLOBS) as write:
            for row in rows:
                line: dict[str, Any] = {"key": row.blob, "size": row.size, "sha256": row.sha256}
                await write(json.dumps(line).encode() + b"\n")
            write.rows = len(rows)
        manifest.parts[BLOBS] = write.part
        manifest.blobs, manifest.blob_bytes = len(rows), sum(row.size for row in rows)
        for first in range(0, len(rows), _BATCH):
            pinned = [row.blob for row in rows[first : first + _BATCH]]
            async with self._control.begin() as pinning:
                await pinning.execute(_PIN, {"blobs": pinned, "holder": _holder(archive)})

    async def _bytes(self, archive: Archive, manifest: Manifest, tell: Tell) -> None:
        """Copy the blobs that are not here yet, whole."""
        copied = 0
        with archive.part(BLOBS).open(encoding="utf-8") as lines:
            for line in lines:
                blob: dict[str, Any] = json.loads(line)
                if not archive.blob(blob["key"]).exists():
                    chunks = self._blobs.get(blob["key"], 0, blob["size"])
                    await archive.write_blob(blob["key"], blob["sha256"], chunks)
                copied += blob["size"]
                tell(copied, manifest.blob_bytes, "bytes of objects")


async def _tenants(tx: AsyncConnection) -> dict[str, int]:
    """Return every tenant with the last version that its counter gave.

    Raises:
        Conflict: one is being erased.
    """
    rows = (await tx.execute(text("select id, name, erasing_at from tenants"))).all()
    for row in rows:
        if row.erasing_at is not None:
            raise Conflict(
                f"tenant {row.name!r} is being erased; let `isthmus tenants delete` end first"
            )
    return {row.name: await tx.scalar(text(_COUNTER.format(id=int(row.id)))) or 0 for row in rows}


def _holder(archive: Archive) -> str:
    return f"export:{archive.root}"
