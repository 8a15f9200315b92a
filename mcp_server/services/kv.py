"""Key-value: durable JSON values with versions, conditions and expiry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, false, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import TypedDict

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, InvalidInput, NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.services import names
from mcp_server.storage.sql.schema import encode_json, kv
from mcp_server.timestamps import iso_or_none

MAX_VALUE_BYTES = 1024 * 1024
MAX_TTL_SECONDS = 10 * 365 * 24 * 3600

_ALIVE = or_(kv.c.expires_at.is_(None), kv.c.expires_at > func.clock_timestamp())

# The condition stands in the update too: it is decided under the row's lock. A key that expired
# counts as absent, and its next version still comes from the tenant's counter. A row that is locked
# already will be updated, so its insert takes no number.
_UPSERT = text(
    """
    insert into kv (tenant, namespace, key, value, version, expires_at)
    values (:tenant, :namespace, :key, :value,
        case when :replaces then 0 else next_version(:tenant) end, :expires_at)
    on conflict (tenant, namespace, key) do update set
        value = excluded.value, version = next_version(excluded.tenant),
        expires_at = excluded.expires_at, updated_at = now()
    where cast(:expected as bigint) is null or :expected =
        case when kv.expires_at <= clock_timestamp() then 0 else kv.version end
    returning version
    """
)


class KvItem(TypedDict):
    """One key with its value; `expires_at` is ISO 8601 in UTC."""

    key: str
    namespace: str
    value: Any
    version: int
    expires_at: str | None


class KvPage(TypedDict):
    items: list[KvItem]
    next_cursor: str | None


class KvDeleted(TypedDict):
    deleted: bool


class KvService:
    """Every method is one operation on `kv://NAMESPACE/KEY`."""

    def __init__(self, operation: Operations, control: AsyncEngine) -> None:
        self._operation = operation
        self._control = control

    async def get(self, principal: Principal, namespace: str, key: str) -> KvItem:
        """Return one item.

        Raises:
            NotFound: there is no such key, or it has expired.
        """
        uri = _uri(namespace, key)
        async with self._operation(principal, "read", uri), self._control.connect() as tx:
            row = (
                await tx.execute(select(kv).where(_at(principal, namespace, key), _ALIVE))
            ).first()
        if row is None:
            raise NotFound(f"key {key!r} does not exist in namespace {namespace!r}", param="key")
        return _item(row)

    async def set(
        self,
        principal: Principal,
        namespace: str,
        key: str,
        value: Any,
        *,
        ttl_seconds: float | None = None,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
    ) -> KvItem:
        """Write one value and return the item with its new version.

        Raises:
            Conflict: the key's version is not `expected_version` (0 = it must not exist).
            InvalidInput: the value is not JSON or too large, or the time to live is out of range.
        """
        uri = _uri(namespace, key)
        encoded = encode_json(value)
        if len(encoded) > MAX_VALUE_BYTES:
            raise InvalidInput(
                f"value: {len(encoded)} bytes of JSON are more than the {MAX_VALUE_BYTES} allowed; "
                "store it as an object",
                param="value",
            )
        expires_at = _expiry(ttl_seconds)
        at = {"tenant": principal.tenant, "namespace": namespace, "key": key}
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            async with self._control.begin() as tx:
                done: dict[str, Any] | None = await op.replay(tx)
                if done is not None:
                    value = await _value(tx, principal, namespace, key, done["version"], value)
                else:
                    written = {"value": encoded, "expires_at": expires_at}
                    version = await _write(tx, op, at | written, expected_version)
                    done = {"version": version, "expires_at": iso_or_none(expires_at)}
                    await op.remember(tx, done)
        return KvItem(key=key, namespace=namespace, value=value, **done)

    async def delete(
        self,
        principal: Principal,
        namespace: str,
        key: str,
        *,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
    ) -> KvDeleted:
        """Delete one key and tell whether it was there.

        Raises:
            Conflict: the key's version is not `expected_version`.
        """
        uri = _uri(namespace, key)
        alive = and_(_at(principal, namespace, key), _ALIVE)
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            async with self._control.begin() as tx:
                done = await op.replay(tx, "delete")
                if done is None:
                    before = await _expect(tx, principal, namespace, key, expected_version)
                    await tx.execute(delete(kv).where(alive))
                    if before is not None:
                        await op.journal(tx, verb="delete", prev_version=before)
                    done = KvDeleted(deleted=before is not None)
                    await op.remember(tx, done, "delete")
        return KvDeleted(deleted=done["deleted"])

    async def list(
        self,
        principal: Principal,
        namespace: str,
        *,
        prefix: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> KvPage:
        """Return a page of items in byte order of their keys."""
        base = _base(namespace)
        start, size = names.prefix(prefix), names.page_size(limit)
        after = names.decode_cursor(cursor)
        visible = policy.scope(principal, "read", "kv").within(base)
        async with self._operation(principal, "read", policy.Listing(base + start)):
            query = (
                select(kv)
                .where(kv.c.tenant == principal.tenant, kv.c.namespace == namespace, _ALIVE)
                .where(_starts(start), *([] if after is None else [kv.c.key > after]))
                .order_by(kv.c.key)
                .limit(size + 1)
            )
            if visible is not None:
                query = query.where(or_(false(), *(_starts(item) for item in visible)))
            async with self._control.connect() as tx:
                rows = (await tx.execute(query)).all()
        items = [_item(row) for row in rows[:size]]
        more = len(rows) > size
        return KvPage(
            items=items, next_cursor=names.encode_cursor(items[-1]["key"]) if more else None
        )


def _uri(namespace: str, key: str) -> str:
    return f"{_base(namespace)}{names.key(key)}"


def _base(namespace: str) -> str:
    """A namespace may hold slashes; encoded, `a/b` is never mistaken for a key of the namespace `a`."""
    return f"kv://{names.container(namespace, 'namespace').replace('/', '%2F')}/"


def _at(principal: Principal, namespace: str, key: str) -> ColumnElement[bool]:
    return and_(kv.c.tenant == principal.tenant, kv.c.namespace == namespace, kv.c.key == key)


def _starts(prefix: str) -> ColumnElement[bool]:
    return func.starts_with(kv.c.key, prefix)


async def _write(
    tx: AsyncConnection, op: Operation, row: dict[str, Any], expected: int | None
) -> int:
    """Write and journal one row; return its version."""
    at = (op.principal, row["namespace"], row["key"])
    before = await _expect(tx, *at, expected)
    given = row | {"expected": expected, "replaces": before is not None}
    version = await tx.scalar(_UPSERT, given)
    if version is None:  # another writer came between the check and the write
        await _expect(tx, *at, expected)
        raise Conflict("another write came first; read the key again")
    await op.journal(tx, version=version, prev_version=before)
    return version


async def _value(
    tx: AsyncConnection, principal: Principal, namespace: str, key: str, version: int, given: Any
) -> Any:
    """Return the value that a version wrote: as `given` again, unless the row still knows better.

    A step that is tried again may have computed another value meanwhile, which was not written.
    """
    here = _at(principal, namespace, key)
    rows = await tx.execute(select(kv.c.value).where(here, kv.c.version == version))
    row = rows.first()
    return given if row is None else row.value


async def _expect(
    tx: AsyncConnection, principal: Principal, namespace: str, key: str, expected: int | None
) -> int | None:
    """Lock the key and return its version, None if it is absent; refuse another than `expected`."""
    if expected is not None and expected < 0:
        raise InvalidInput(
            f"expected_version: {expected} is negative; 0 means that the key must not exist",
            param="expected_version",
        )
    query = select(kv.c.version).where(_at(principal, namespace, key), _ALIVE).with_for_update()
    current = await tx.scalar(query)
    if expected is not None and (current or 0) != expected:
        raise Conflict(f"version is {current or 0}", param="expected_version")
    return current


def _expiry(ttl_seconds: float | None) -> datetime | None:
    if ttl_seconds is None:
        return None
    if not 0 < ttl_seconds <= MAX_TTL_SECONDS:
        raise InvalidInput(
            f"ttl_seconds: {ttl_seconds} is not above 0 and at most {MAX_TTL_SECONDS}",
            param="ttl_seconds",
        )
    return datetime.now(UTC) + timedelta(seconds=ttl_seconds)


def _item(row: Row[Any]) -> KvItem:
    return KvItem(
        key=row.key,
        namespace=row.namespace,
        value=row.value,
        version=row.version,
        expires_at=iso_or_none(row.expires_at),
    )
