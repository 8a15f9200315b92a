"""Earlier versions of objects: read newest first, and purged when they are too old to be brought back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, null, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.services.objects.addresses import Address
from mcp_server.services.objects.manifest import LIVING, discard
from mcp_server.storage.sql.object_tables import object_versions
from mcp_server.storage.sql.schema import objects

BATCH = 500
_PURGE = text(
    """
    delete from object_versions where (tenant, bucket, key, version) in (
        select tenant, bucket, key, version from object_versions
        where replaced_at < now() - make_interval(secs => :age)
        order by replaced_at limit :batch for update skip locked
    ) returning blob
    """
)


async def versions_of(
    control: AsyncEngine, at: Address, below: int | None, count: int
) -> Sequence[Row[Any]]:
    """Return up to `count` versions, newest first: the present one and those that are kept."""
    kept = [column for column in object_versions.c if column.name != "replaced_at"]
    present = select(*(objects.c[column.name] for column in kept), null().label("replaced_at"))
    earlier = select(*kept, object_versions.c.replaced_at)
    both = union_all(
        present.where(at.row(), LIVING), earlier.where(at.row(object_versions))
    ).subquery()
    query = select(both).order_by(both.c.version.desc()).limit(count)
    if below is not None:
        query = query.where(both.c.version < below)
    async with control.connect() as connection:
        return (await connection.execute(query)).all()


async def purge_versions(control: AsyncEngine, undo_days: float) -> int:
    """Forget the versions that were replaced more than `undo_days` ago; return how many."""
    purged = 0
    while True:
        given = {"age": undo_days * 86_400, "batch": BATCH}
        async with control.begin() as tx:
            blobs = (await tx.scalars(_PURGE, given)).all()
            await discard(tx, blobs)
        purged += len(blobs)
        if len(blobs) < BATCH:
            return purged
