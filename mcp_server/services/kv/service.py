"""What a door may ask of keys: every method is one operation on `kv://NAMESPACE/KEY`."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from sqlalchemy import ColumnElement, Row, false, func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.services import names
from mcp_server.services.kv import durable
from mcp_server.services.kv.drafts import KvDelete, KvRestore, KvWrite, recorded
from mcp_server.services.kv.durable import ALIVE, Terms
from mcp_server.services.kv.items import (
    Address,
    KvDeleted,
    KvItem,
    KvPage,
    base,
    check_expected,
    check_ttl,
)
from mcp_server.services.writes import Draft, Record
from mcp_server.storage.sql.schema import kv
from mcp_server.timestamps import iso_or_none


class KvService:
    """Keys in the control database. `undo_days` is how long what is replaced is kept; 0 keeps nothing."""

    def __init__(
        self, operation: Operations, control: AsyncEngine, *, undo_days: float = 0
    ) -> None:
        self._operation = operation
        self._control = control
        self._keep = undo_days > 0

    async def get(self, principal: Principal, namespace: str, key: str) -> KvItem:
        """Return one item.

        Raises:
            NotFound: there is no such key, or it has expired.
        """
        at = Address.of(principal.tenant, namespace, key)
        async with self._operation(principal, "read", at.uri), self._control.connect() as tx:
            row = await durable.read(tx, at)
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
        draft = await self.draft_write(
            principal,
            namespace,
            key,
            value,
            ttl_seconds=ttl_seconds,
            expected_version=expected_version,
        )
        async with self._operation(principal, "write", draft.uri, key=idempotency_key) as op:
            return await self._write(op, draft)

    async def _write(self, op: Operation, draft: KvWrite) -> KvItem:
        """Write once under the operation's key. The value is not stored a second time for that."""
        async with self._control.begin() as tx:
            done: dict[str, Any] | None = await op.replay(tx)
            value = draft.value
            if done is None:
                answer = await draft.apply(tx, op)
                done = {name: answer[name] for name in ("version", "expires_at")}
                await op.remember(tx, done)
            else:
                value = await durable.value_of(tx, draft.at, done["version"], value)
        return KvItem(key=draft.at.key, namespace=draft.at.namespace, value=value, **done)

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
        draft = await self.draft_delete(
            principal, namespace, key, expected_version=expected_version
        )
        async with self._operation(principal, "write", draft.uri, key=idempotency_key) as op:
            async with self._control.begin() as tx:
                done = await op.replay(tx, draft.effect)
                if done is None:
                    done = await op.remember(tx, await draft.apply(tx, op), draft.effect)
        return KvDeleted(deleted=done["deleted"])

    async def draft_write(
        self,
        principal: Principal,
        namespace: str,
        key: str,
        value: Any,
        *,
        ttl_seconds: float | None = None,
        expected_version: int | None = None,
    ) -> KvWrite:
        """Return `set` as a draft; raises its InvalidInput."""
        at = Address.of(principal.tenant, namespace, key)
        terms = Terms(expected=check_expected(expected_version), ttl=check_ttl(ttl_seconds))
        return KvWrite(at, self._keep, value, terms)

    async def draft_delete(
        self,
        principal: Principal,
        namespace: str,
        key: str,
        *,
        expected_version: int | None = None,
    ) -> KvDelete:
        """Return `delete` as a draft; raises its InvalidInput."""
        at = Address.of(principal.tenant, namespace, key)
        return KvDelete(at, self._keep, check_expected(expected_version))

    async def draft_restore(
        self, principal: Principal, uri: str, version: int | None, expected: int
    ) -> Draft:
        """Return the draft that makes a version current again (`services.writes.Versioned`)."""
        at = _address(principal, uri)
        return KvRestore(at, self._keep, self._control, version, expected)

    async def draft_recorded(self, principal: Principal, uri: str, record: Record) -> Draft:
        """Return the draft of a record (`services.writes.Versioned`)."""
        return recorded(_address(principal, uri), record, keep=self._keep)

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
        under = base(namespace)
        start, size = names.prefix(prefix), names.page_size(limit)
        after = names.decode_cursor(cursor)
        visible = policy.scope(principal, "read", "kv").within(under)
        async with self._operation(principal, "read", policy.Listing(under + start)):
            query = (
                select(kv)
                .where(kv.c.tenant == principal.tenant, kv.c.namespace == namespace, ALIVE)
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


def _address(principal: Principal, uri: str) -> Address:
    """Return where the key of a journalled URI is."""
    namespace, slash, key = uri.removeprefix("kv://").partition("/")
    if not uri.startswith("kv://") or not slash:
        raise InvalidInput(f"{uri[:200]!r} is the URI of no key", param="uri")
    return Address.of(principal.tenant, unquote(namespace), key)


def _starts(prefix: str) -> ColumnElement[bool]:
    return func.starts_with(kv.c.key, prefix)


def _item(row: Row[Any]) -> KvItem:
    return KvItem(
        key=row.key,
        namespace=row.namespace,
        value=row.value,
        version=row.version,
        expires_at=iso_or_none(row.expires_at),
    )
