"""The marks of tenants' statements: what was done under an idempotency key is not done again elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from mcp_server.placement import Placements
from mcp_server.services.moves.archive import Archive, Part
from mcp_server.storage.sql.connections import Role
from mcp_server.storage.sql.tenant_roles import TenantRoles
from mcp_server.storage.sql.wire import connect_owner

PART = "sql/effects.jsonl"

_THERE = "select to_regclass('isthmus.effects') is not null"
_READ = "select key, statement, arguments, attempt, result from isthmus.effects where role = $1"
_FORGET = "delete from isthmus.effects where role = any($1)"
_WRITE = """
    insert into isthmus.effects (role, key, statement, arguments, attempt, result)
    values ($1, $2, $3, $4, $5, $6)
"""


async def write(
    archive: Archive, url: str, roles: TenantRoles, snapshot: str, tenants: Iterable[str]
) -> tuple[str, Part]:
    """Write every tenant's marks as they are in an exported snapshot."""
    place = Placements(url)
    connection = await connect_owner(url)
    try:
        async with (
            connection.transaction(isolation="repeatable_read", readonly=True),
            archive.writing(PART) as part,
        ):
            await connection.execute(f"set transaction snapshot '{snapshot}'")
            if await connection.fetchval(_THERE):
                for tenant in tenants:
                    role = roles.name(Role(place(tenant).schema, True))
                    async for row in connection.cursor(_READ, role):
                        line = {"tenant": tenant, **dict(row)}
                        await part(json.dumps(line).encode() + b"\n")
                        part.rows += 1
    finally:
        await connection.close()
    return PART, part.part


async def read(archive: Archive, url: str, roles: TenantRoles, tenants: Iterable[str]) -> None:
    """Put the marks under the tenants' roles here; may be repeated."""
    place = Placements(url)
    names = {tenant: roles.name(Role(place(tenant).schema, True)) for tenant in tenants}
    connection = await connect_owner(url)
    try:
        async with connection.transaction():
            await connection.execute(_FORGET, list(names.values()))
            with closing(archive.part(PART).open(encoding="utf-8")) as lines:
                for line in lines:
                    mark: dict[str, Any] = json.loads(line)
                    await connection.execute(_WRITE, names[mark.pop("tenant")], *mark.values())
    finally:
        await connection.close()
