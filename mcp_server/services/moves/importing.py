"""The work of an import: an archive into a fresh deployment, part by part, each once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import Conflict, InvalidInput
from mcp_server.placement import Placements
from mcp_server.runs.context import RunContext
from mcp_server.runs.record import Outcome
from mcp_server.services.moves import control_tables, moved_effects, moved_vectors
from mcp_server.services.moves.archive import MANIFEST, Archive, Manifest, Tell
from mcp_server.services.moves.exporting import BLOBS
from mcp_server.storage.objects import BlobStore
from mcp_server.storage.sql.control import revision
from mcp_server.storage.sql.dump import restore_schema
from mcp_server.storage.sql.owner import Owner
from mcp_server.storage.vectors import VectorEngine

KIND = "import"
# What a deployment has before anybody used it, and what the import itself leaves while it is under way.
_FRESH = frozenset({"api_keys", "audit", "journal", "runs", "run_events", "run_steps", "effects"})

_DONE = text("insert into import_parts (name) values (:name) on conflict do nothing returning 1")
_MAPPED = text("select blob from pinned_blobs where holder = :holder")
_PIN = text("insert into pinned_blobs (blob, holder) values (:blob, :holder)")
_UNPIN = text("delete from pinned_blobs where holder like 'import:%'")
_COUNTER = "select setval('version_' || id, greatest(:last, 1), :last > 0) from tenants where name = :tenant"
_CHUNK_IDS = text("select setval('chunk_ids', greatest(1, (select max(id) from chunks)))")
_OF_A_RUN = "delete from stage where not exists (select from runs where id = stage.run)"
# How rows are changed on their way in, in a table of the same form: `stage`.
_CHANGES = {
    "runs": (
        "delete from stage where kind in ('export', 'import')",
        "update stage set status = 'queued', lease = null where status = 'running'",
    ),
    "run_events": (_OF_A_RUN,),
    "run_steps": (_OF_A_RUN,),
    "vector_stores": (
        "update stage set shard = 0, index_state = 'none', measured_chunks = 0, measured_at = null",
    ),
}
# Positions are of a database: what is recorded goes on here, in the old order.
_NUMBERED_ANEW = {"journal": ("xid", "seq"), "audit": ("id",)}
_MAP_BLOBS = text(
    "update stage set blob = pinned_blobs.blob from pinned_blobs where holder = 'import:' || stage.blob"
)


# An archive may be anybody's: what its rows name must be what it brought.
_NOT_BROUGHT = text(
    "select true from stage where not exists ("
    "select from pinned_blobs where blob = stage.blob and starts_with(holder, 'import:')) limit 1"
)


class Importing:
    """Executes runs of kind `import`; their input names the directory. Interrupted, it goes on."""

    def __init__(
        self,
        control: AsyncEngine,
        owner: Owner,
        data_url: str,
        blobs: BlobStore,
        vectors: VectorEngine,
    ) -> None:
        self._control, self._owner, self._data_url = control, owner, data_url
        self._blobs, self._vectors = blobs, vectors

    async def __call__(self, context: RunContext) -> Outcome:
        """Import.

        Raises:
            InvalidInput: the archive is not complete, damaged, or of another version.
            Conflict: the deployment is in use. Unavailable: an engine does not answer.
        """
        tell = context.progress
        archive = Archive(Path(context.run.input["directory"]))
        manifest = archive.read()
        if manifest is None:
            raise InvalidInput(f"{archive.root} holds no export")
        await self._require_fitting(archive, manifest)
        await archive.verify(manifest, lambda name: tell(0, None, f"checking {name}"))
        await self._bytes(archive, manifest, tell)
        async with self._control.begin() as tx:
            for tenant in manifest.tenants:
                await tx.execute(text("select create_tenant(:tenant)"), {"tenant": tenant})
        await self._schemas(archive, manifest, tell)
        await self._rows(archive, manifest, tell)
        async for done in moved_vectors.read(archive, self._control, self._vectors):
            tell(done, manifest.parts[moved_vectors.PART].rows, "vectors of documents")
        await self._finish(manifest)
        return Outcome(
            status="completed",
            output={
                "directory": str(archive.root),
                "tenants": len(manifest.tenants),
                "rows": sum(part.rows for part in manifest.parts.values()),
                "blobs": manifest.blobs,
            },
        )

    async def _require_fitting(self, archive: Archive, manifest: Manifest) -> None:
        """Refuse an archive of another version, and a deployment that somebody uses."""
        async with self._control.connect() as tx:
            here = await revision(tx)
            if manifest.revision != here:
                raise InvalidInput(
                    f"{archive.root} was exported at revision {manifest.revision}, this version has {here}; "
                    "export and import with the same version"
                )
            for table, columns in (await control_tables.tables(tx)).items():
                part = manifest.parts.get(f"control/{table}.copy")
                if part is not None and not set(part.columns) <= set(columns):
                    raise InvalidInput(
                        f"{archive.root / MANIFEST} names columns that {table} has not; export again"
                    )
            begun = await tx.scalar(
                text("select name from import_parts where name like 'archive %'")
            )
            identity = f"archive {manifest.created_at} {manifest.position}"
            if begun is None:
                await self._require_fresh(tx)
            elif begun != identity:
                raise Conflict("another archive is half imported here; end that import first")
        async with self._control.begin() as tx:
            await tx.execute(_DONE, {"name": identity})

    async def _require_fresh(self, tx: AsyncConnection) -> None:
        tenants = await tx.scalar(text("select count(*) from tenants"))
        for table in await control_tables.tables(tx):
            any_row = text(f'select true from "{table}" limit 1')  # noqa: S608  names from the catalog
            used = table not in _FRESH and await tx.scalar(any_row)
            if used or tenants != 1:
                raise Conflict(
                    f"this deployment holds data already ({table if used else 'other tenants'}); "
                    "import into a fresh one: another DATA_DIR, or empty databases and buckets"
                )

    async def _bytes(self, archive: Archive, manifest: Manifest, tell: Tell) -> None:
        """Store the blobs under keys of this store; who is pinned under which is the map of old to new."""
        copied = 0
        with archive.part(BLOBS).open(encoding="utf-8") as lines:
            for line in lines:
                blob: dict[str, Any] = json.loads(line)
                holder = f"import:{blob['key']}"
                async with self._control.connect() as tx:
                    there = await tx.scalar(_MAPPED, {"holder": holder})
                if there is None:
                    await self._store(archive, blob, holder)
                copied += blob["size"]
                tell(copied, manifest.blob_bytes, "bytes of objects")

    async def _store(self, archive: Archive, blob: dict[str, Any], holder: str) -> None:
        stored = await self._blobs.put(archive.read_blob(blob["key"]))
        if stored.sha256 != blob["sha256"] or stored.size != blob["size"]:
            await self._blobs.delete(stored.key)
            raise InvalidInput(f"{archive.blob(blob['key'])} is damaged; export again")
        async with self._control.begin() as tx:
            await tx.execute(_PIN, {"blob": stored.key, "holder": holder})

    async def _schemas(self, archive: Archive, manifest: Manifest, tell: Tell) -> None:
        """Restore each tenant's tables as its own role, in one transaction."""
        place = Placements(self._data_url)
        dumps = {Path(name).stem: name for name in manifest.parts if name.endswith(".dump")}
        for done, tenant in enumerate(sorted(manifest.tenants)):
            tell(done, len(manifest.tenants), f"SQL of tenant {tenant}")
            schema = place(tenant).schema
            await self._owner.ensure(schema)
            if schema in dumps and not await self._owner.holds_tables(schema):
                async with self._owner.restoring(schema) as url:
                    await restore_schema(url, archive.part(dumps[schema]))
        await moved_effects.read(archive, self._data_url, self._owner.roles, manifest.tenants)

    async def _rows(self, archive: Archive, manifest: Manifest, tell: Tell) -> None:
        async with self._control.connect() as tx:
            tables = await control_tables.tables(tx)
        for done, table in enumerate(tables):
            tell(done, len(tables), table)
            part = manifest.parts.get(f"control/{table}.copy")
            if part is None or not part.rows:
                continue
            async with self._control.begin() as tx:
                if await tx.scalar(_DONE, {"name": table}):
                    await self._fill(tx, table, part.columns, archive.part(f"control/{table}.copy"))

    async def _fill(
        self, tx: AsyncConnection, table: str, columns: list[str], source: Path
    ) -> None:
        await tx.execute(text(f'create temp table stage (like "{table}") on commit drop'))
        for column in columns:
            await tx.execute(text(f'alter table stage alter column "{column}" drop not null'))
        await control_tables.copy_in(tx, "stage", columns, source)
        if "blob" in columns:
            await tx.execute(_MAP_BLOBS)
            if await tx.scalar(_NOT_BROUGHT):
                raise InvalidInput(
                    f"{source} names a blob that is not in the archive; export again"
                )
        for change in _CHANGES.get(table, ()):
            await tx.execute(text(change))
        if "engine" in columns:
            await tx.execute(text("update stage set engine = :name"), {"name": self._vectors.name})
        numbers = _NUMBERED_ANEW.get(table, ())
        names = ", ".join(f'"{name}"' for name in columns if name not in numbers)
        order = f"order by {', '.join(numbers)}" if numbers else ""
        # Of two keys with one name and of two marks of one statement, those that are here stay.
        twice = "on conflict do nothing" if table in _FRESH else ""
        # A run begins queued, says a trigger; these began elsewhere.
        await tx.execute(text(f'alter table "{table}" disable trigger user'))
        await tx.execute(
            text(
                f'insert into "{table}" ({names}) overriding system value '  # noqa: S608  names from the catalog
                f"select {names} from stage {order} {twice}"
            )
        )
        await tx.execute(text(f'alter table "{table}" enable trigger user'))

    async def _finish(self, manifest: Manifest) -> None:
        async with self._control.begin() as tx:
            for tenant, last in manifest.tenants.items():
                await tx.execute(text(_COUNTER), {"tenant": tenant, "last": last})
            await tx.execute(_CHUNK_IDS)
            await tx.execute(_UNPIN)
            await tx.execute(text("delete from import_parts"))
