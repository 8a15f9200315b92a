"""Durable keys: what one statement each does to them in the caller's transaction, by the database's clock."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Table,
    TextClause,
    and_,
    bindparam,
    false,
    func,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import Unavailable
from mcp_server.services.kv.items import (
    MAX_PAGE_BYTES,
    Address,
    Terms,
    VersionConflict,
    not_held,
)
from mcp_server.storage.sql.kv_tables import kv_namespaces
from mcp_server.storage.sql.schema import kv


def alive(table: Table) -> ColumnElement[bool]:
    """Return whether a row has not expired."""
    return or_(table.c.expires_at.is_(None), table.c.expires_at > func.clock_timestamp())


ALIVE = alive(kv)
# Each turn that fails saw another writer make or remove the key in between.
TURNS = 50

_KEEP = """
    , kept as (
        insert into kv_versions (tenant, version, namespace, key, value, expires_at)
        select :tenant, version, :namespace, :key, value, expires_at from {replaced}
    )"""
_HELD = """
    , held as (
        select from kv_leases
        where tenant = :tenant and token = :fence and expires_at > clock_timestamp() for share
    )"""

# `before` locks the row and sees its newest state, so what is kept and what is conditional is decided
# on what the write replaces. A row that another writer made since the statement began is not in it:
# nothing is written then, and the next statement sees that row. A key that expired counts as absent.
_WRITE = """
    with before as (
        select version, value, expires_at, coalesce(expires_at > clock_timestamp(), true) as alive
        from kv where tenant = :tenant and namespace = :namespace and key = :key for update
    ){held}, written as (
        insert into kv (tenant, namespace, key, value, version, expires_at)
        select :tenant, :namespace, :key, :value, next_version(:tenant), coalesce(
            cast(:expires_at as timestamptz),
            clock_timestamp() + make_interval(secs => cast(:ttl as double precision)))
        from (select) as one left join before on true
        where {is_held} (cast(:expected as bigint) is null
            or :expected = case when before.alive then before.version else 0 end)
        on conflict (tenant, namespace, key) do update set
            value = excluded.value, version = excluded.version,
            expires_at = excluded.expires_at, updated_at = now()
        where kv.version = (select version from before)
        returning version, expires_at
    ), replaced as (
        select version, value, expires_at from before where alive and exists (select from written)
    ), named as (
        insert into kv_namespaces (tenant, name) select :tenant, :namespace
        where not exists (select from before) and not exists (
            select from kv_namespaces where tenant = :tenant and name = :namespace)
        on conflict do nothing
    ){kept}
    select written.version, written.expires_at,
        (select version from before where alive) as before, {tell_held} as held
    from (select) as one left join written on true
    """
_DELETE = """
    with gone as (
        delete from kv where tenant = :tenant and namespace = :namespace and key = :key
            and coalesce(expires_at > clock_timestamp(), true)
            and (cast(:expected as bigint) is null or version = :expected)
        returning version, value, expires_at
    ){kept}
    select version from gone
    """


def _write_statement(*, keep: bool, fenced: bool) -> TextClause:
    return text(
        _WRITE.format(
            kept=_KEEP.format(replaced="replaced") if keep else "",
            held=_HELD if fenced else "",
            is_held="exists (select from held) and" if fenced else "",
            tell_held="exists (select from held)" if fenced else "true",
        )
    )


# By whether what is replaced is kept, and whether a lease must be held.
_WRITES = {
    (keep, fenced): _write_statement(keep=keep, fenced=fenced)
    for keep in (False, True)
    for fenced in (False, True)
}
_DELETES = {
    keep: text(_DELETE.format(kept=_KEEP.format(replaced="gone") if keep else ""))
    for keep in (False, True)
}
_AT = and_(*(kv.c[name] == bindparam(name) for name in ("tenant", "namespace", "key")))
_VERSION = select(kv.c.version).where(_AT, ALIVE).with_for_update()
_READ = select(kv).where(_AT, ALIVE)
_LOCK = _READ.with_for_update()
_READ_MANY = select(kv).where(
    kv.c.tenant == bindparam("tenant"),
    kv.c.namespace == bindparam("namespace"),
    kv.c.key.in_(bindparam("keys", expanding=True)),
    ALIVE,
)
_STILL = select(kv.c.value).where(_AT, kv.c.version == bindparam("version"))


@dataclass(frozen=True, slots=True)
class Written:
    """What a write made: the version, the one that it replaced if any, and when it expires."""

    version: int
    before: int | None
    expires_at: datetime | None


async def write(
    tx: AsyncConnection, at: Address, value: str, terms: Terms, *, keep: bool
) -> Written:
    """Write encoded JSON; with `keep`, what it replaces goes to kv_versions.

    Raises:
        Conflict: the terms do not hold.
    """
    fenced = terms.fence is not None
    given: dict[str, Any] = at.row() | {
        "value": value,
        "expected": terms.expected,
        "ttl": terms.ttl,
        "expires_at": terms.expires_at,
    }
    given |= {"fence": terms.fence} if fenced else {}
    for _ in range(TURNS):
        row = (await tx.execute(_WRITES[keep, fenced], given)).one()
        if row.version is not None:
            return Written(row.version, row.before, row.expires_at)
        if not row.held:
            raise not_held(terms.fence or 0)
        if terms.expected is not None and terms.expected != (row.before or 0):
            raise VersionConflict(row.before)
    raise Unavailable("other writers keep making and deleting this key; try again")


async def delete(
    tx: AsyncConnection, at: Address, expected: int | None, *, keep: bool
) -> int | None:
    """Delete a key and return the version that it had, None if it was not there.

    Raises:
        Conflict: the version is not `expected`.
    """
    for _ in range(TURNS):
        given = at.row() | {"expected": expected}
        before: int | None = await tx.scalar(_DELETES[keep], given)
        if before is not None or expected is None:
            return before
        current: int | None = await tx.scalar(_VERSION, at.row())
        if (current or 0) != expected:
            raise VersionConflict(current)
        if current is None:
            return None
    raise Unavailable("other writers keep making and deleting this key; try again")


async def read(tx: AsyncConnection, at: Address, *, lock: bool = False) -> Row[Any] | None:
    """Return a key's row, None if it is not there; with `lock` nobody changes it until `tx` ends."""
    return (await tx.execute(_LOCK if lock else _READ, at.row())).first()


async def read_many(
    tx: AsyncConnection, tenant: str, namespace: str, keys: Sequence[str]
) -> Sequence[Row[Any]]:
    """Return the rows of those keys that are there, all as they were at one moment."""
    given = {"tenant": tenant, "namespace": namespace, "keys": list(keys)}
    return (await tx.execute(_READ_MANY, given)).all()


async def value_of(tx: AsyncConnection, at: Address, version: int, given: Any) -> Any:
    """Return the value that a version wrote: as `given` again, unless the row still knows better.

    A step that is tried again may have computed another value meanwhile, which was not written.
    """
    row = (await tx.execute(_STILL, at.row() | {"version": version})).first()
    return given if row is None else row.value


async def page(
    tx: AsyncConnection,
    tenant: str,
    namespace: str,
    prefixes: Sequence[str],
    after: str | None,
    size: int,
) -> tuple[Sequence[Row[Any]], bool]:
    """Return up to `size` rows under any of the prefixes in byte order, and whether more follow.

    A page of large values is shorter.
    """
    starts = [_starts(prefix) for prefix in prefixes]
    found = (
        select(kv)
        .where(kv.c.tenant == tenant, kv.c.namespace == namespace, ALIVE, or_(false(), *starts))
        .where(*([] if after is None else [kv.c.key > after]))
        .order_by(kv.c.key)
        .limit(size + 1)
        .subquery()
    )
    so_far = func.sum(func.octet_length(found.c.value)).over(order_by=found.c.key)
    sized = select(found, so_far.label("so_far"), func.count().over().label("total")).subquery()
    before = sized.c.so_far - func.octet_length(sized.c.value)
    rows = (
        await tx.execute(
            select(sized).where(before <= MAX_PAGE_BYTES).order_by(sized.c.key).limit(size)
        )
    ).all()
    return rows, bool(rows) and rows[0].total > len(rows)


def _starts(prefix: str) -> ColumnElement[bool]:
    """Return the range of the index that holds the keys under a prefix: their order is that of code points."""
    if not prefix:
        return true()
    last = ord(prefix[-1])
    following = 0xE000 if last == 0xD7FF else last + 1  # what is between are no characters
    if following > sys.maxunicode:
        return and_(kv.c.key >= prefix, func.starts_with(kv.c.key, prefix))
    return and_(kv.c.key >= prefix, kv.c.key < prefix[:-1] + chr(following))


async def namespace_exists(tx: AsyncConnection, tenant: str, namespace: str) -> bool:
    """Tell whether anything was ever written there."""
    query = select(kv_namespaces.c.name).where(
        kv_namespaces.c.tenant == tenant, kv_namespaces.c.name == namespace
    )
    return (await tx.execute(query)).first() is not None
