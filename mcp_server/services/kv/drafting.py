"""Drafts of writes to keys, for undo and units of work (`services.writes.Versioned`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.services.kv.drafts import KvDelete, KvRestore, KvWrite, recorded
from mcp_server.services.kv.items import (
    Address,
    Terms,
    check_expected,
    check_token,
    check_ttl,
    encode,
)
from mcp_server.services.writes import Draft, Record

CACHE = "cache/"


class KvDrafting:
    """What a unit of work and undo may ask of durable keys; with `keep`, what is replaced is kept."""

    def __init__(self, control: AsyncEngine, *, keep: bool) -> None:
        self._control = control
        self._keep = keep

    async def draft_write(
        self,
        principal: Principal,
        namespace: str,
        key: str,
        value: Any,
        *,
        ttl_seconds: float | None = None,
        expected_version: int | None = None,
        fence: int | None = None,
    ) -> KvWrite:
        """Return `set` as a draft; raises its InvalidInput."""
        at, terms = checked(principal, namespace, key, ttl_seconds, expected_version, fence)
        return KvWrite(_durable(at), self._keep, value, encode(value), terms)

    async def draft_delete(
        self, principal: Principal, namespace: str, key: str, *, expected_version: int | None = None
    ) -> KvDelete:
        """Return `delete` as a draft; raises its InvalidInput."""
        at = _durable(Address.of(principal.tenant, namespace, key))
        return KvDelete(at, self._keep, check_expected(expected_version))

    async def draft_restore(
        self, principal: Principal, uri: str, version: int | None, expected: int
    ) -> Draft:
        """Return the draft that makes a version current again (`services.writes.Versioned`)."""
        at = _durable(Address.of_uri(principal.tenant, uri))
        return KvRestore(at, self._keep, self._control, version, expected)

    async def draft_recorded(self, principal: Principal, uri: str, record: Record) -> Draft:
        """Return the draft of a record (`services.writes.Versioned`)."""
        return recorded(Address.of_uri(principal.tenant, uri), record, keep=self._keep)


def checked(
    principal: Principal,
    namespace: str,
    key: str,
    ttl: float | None,
    expected: int | None,
    fence: int | None,
) -> tuple[Address, Terms]:
    """Return where a value goes and on what terms.

    Raises:
        InvalidInput: an argument is malformed.
    """
    at = Address.of(principal.tenant, namespace, key)
    terms = Terms(check_expected(expected), check_ttl(ttl), fence=check_token(fence, "fence"))
    return at, terms


def _durable(at: Address) -> Address:
    if at.namespace.startswith(CACHE):
        raise InvalidInput(
            f"namespace: {at.namespace!r} is in the cache, where nothing is undone or belongs to a "
            "unit of work; use a namespace that does not begin with cache/",
            param="namespace",
        )
    return at
