"""Keys: made once, shown once, stored as hashes, dead within a second of their revocation."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import TypedDict

from mcp_server.auth.principal import DEFAULT_TENANT, OWNER, OWNER_SCOPES, Principal
from mcp_server.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from mcp_server.policy import DEFAULT_SCOPES, parse_scope
from mcp_server.settings_values import check_rate
from mcp_server.storage.sql.schema import api_keys
from mcp_server.timestamps import iso, iso_or_none

KEY_PREFIX = "sk-isth-"
# A key is asked for again after this many seconds: with the watch on open requests below it, a
# revoked key is dead everywhere within one second.
CACHE_SECONDS = 0.5
MOST_CACHED = 10_000
MAX_NAME = 128
# SQLSTATE of our own, raised by create_tenant().
BEING_ERASED = "IS003"


class KeyInfo(TypedDict):
    """A key without its secret; times are ISO 8601 in UTC."""

    id: str
    name: str
    tenant: str
    user: str
    scopes: list[str]
    rate_limit: str | None
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class NewKey(TypedDict):
    id: str
    name: str
    tenant: str
    user: str
    scopes: list[str]
    key: str


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    rate: str | None
    until: float


class KeyService:
    """The keys of one control database, and the operator's own key if one is set."""

    def __init__(self, control: AsyncEngine, api_key: str | None = None) -> None:
        self._control = control
        self._api_key = api_key.encode() if api_key else None
        self._cache: dict[bytes, _Known] = {}
        self._rates: dict[str, str | None] = {}

    async def create(
        self,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        user: str | None = None,
        scopes: Iterable[str] = (),
        expires_days: float | None = None,
        rate_limit: str | None = None,
    ) -> NewKey:
        """Make a key; its secret is in the result and nowhere else. A tenant exists from its first key.

        Raises:
            InvalidInput: a name, scope, rate or expiry does not fit.
            Conflict: the tenant is being erased.
        """
        for value, param in ((name, "name"), (tenant, "tenant"), (user or name, "user")):
            _check_name(value, param)
        granted = sorted({parse_scope(item) for item in scopes} or DEFAULT_SCOPES)
        if rate_limit is not None:
            try:
                rate_limit = check_rate(rate_limit)
            except ValueError as error:
                raise InvalidInput(f"rate_limit: {error}", param="rate_limit") from error
        key_id = f"key_{secrets.token_hex(8)}"
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        values = {
            "id": key_id,
            "name": name,
            "tenant": tenant,
            "subject": user or name,
            "scopes": granted,
            "hash": _hash(secret),
            "rate_limit": rate_limit,
            "created_at": datetime.now(UTC),
            "expires_at": _expiry(expires_days),
        }
        async with self._control.begin() as tx:
            await _make_tenant(tx, tenant)
            await tx.execute(api_keys.insert().values(values))
        return NewKey(
            id=key_id, name=name, tenant=tenant, user=user or name, scopes=granted, key=secret
        )

    async def create_first(self) -> NewKey | None:
        """Make the admin key if no key exists yet; processes that start together make one."""
        async with self._control.begin() as tx:
            await tx.execute(text("lock table api_keys in share row exclusive mode"))
            if await tx.scalar(select(func.count()).select_from(api_keys)):
                return None
            secret = KEY_PREFIX + secrets.token_urlsafe(32)
            new = NewKey(
                id=f"key_{secrets.token_hex(8)}",
                name="admin",
                tenant=DEFAULT_TENANT,
                user=OWNER.subject,
                scopes=sorted(OWNER_SCOPES),
                key=secret,
            )
            await tx.execute(
                api_keys.insert().values(
                    id=new["id"],
                    name=new["name"],
                    tenant=new["tenant"],
                    subject=new["user"],
                    scopes=new["scopes"],
                    hash=_hash(secret),
                    created_at=datetime.now(UTC),
                )
            )
        return new

    async def any_exists(self) -> bool:
        """Tell whether some key could open a door: a set API_KEY or a live row."""
        if self._api_key is not None:
            return True
        query = select(func.count()).select_from(api_keys).where(_alive())
        async with self._control.connect() as tx:
            return bool(await tx.scalar(query))

    async def list(self) -> list[KeyInfo]:
        """Return every key, newest last, without secrets."""
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        async with self._control.connect() as tx:
            return [_info(row) for row in (await tx.execute(query)).mappings()]

    async def revoke(self, key_id: str) -> KeyInfo:
        """End a key now; a second time changes nothing.

        Raises:
            NotFound: there is no such key.
        """
        now = func.coalesce(api_keys.c.revoked_at, func.now())
        change = (
            update(api_keys)
            .where(api_keys.c.id == key_id)
            .values(revoked_at=now)
            .returning(*api_keys.c)
        )
        async with self._control.begin() as tx:
            row = (await tx.execute(change)).mappings().first()
        if row is None:
            raise NotFound(
                f"key {key_id!r} does not exist; `isthmus keys list` shows those that do"
            )
        self._cache.clear()
        return _info(row)

    async def authenticate(self, secret: str) -> Principal:
        """Return the principal of a key.

        Raises:
            Unauthenticated: the key is unknown, expired or revoked.
        """
        given = secret.encode("utf-8", "surrogateescape")
        if self._api_key is not None and hmac.compare_digest(given, self._api_key):
            return OWNER
        digest = hashlib.sha256(given).digest()
        known = self._cache.get(digest)
        if known is None or known.until < time.monotonic():
            known = await self._look_up(digest)
        return known.principal

    def rate_of(self, principal: Principal) -> str | None:
        """Return the key's own rate, None if it has none."""
        return None if principal.key_id is None else self._rates.get(principal.key_id)

    async def dead(self, key_ids: set[str]) -> set[str]:
        """Return those of `key_ids` that no longer open a door."""
        query = select(api_keys.c.id).where(api_keys.c.id.in_(key_ids), _alive())
        async with self._control.connect() as tx:
            return key_ids - set(await tx.scalars(query))

    async def scopes_now(self, principal: Principal) -> frozenset[str] | None:
        """Return what the principal's key may do now, None if the key is dead."""
        if principal.key_id is None:
            return principal.scopes
        query = select(api_keys.c.scopes).where(api_keys.c.id == principal.key_id, _alive())
        async with self._control.connect() as tx:
            scopes = await tx.scalar(query)
        return None if scopes is None else frozenset(scopes)

    async def _look_up(self, digest: bytes) -> _Known:
        query = select(api_keys).where(api_keys.c.hash == digest, _alive())
        async with self._control.connect() as tx:
            row = (await tx.execute(query)).first()
        if row is None:
            self._cache.pop(digest, None)
            raise Unauthenticated(
                "the key is unknown, expired or revoked; `isthmus keys create` makes one"
            )
        principal = Principal(row.tenant, row.subject, frozenset(row.scopes), row.id)
        known = _Known(principal, row.rate_limit, time.monotonic() + CACHE_SECONDS)
        if len(self._cache) >= MOST_CACHED:
            self._cache.clear()
        self._cache[digest] = known
        self._rates[row.id] = row.rate_limit
        return known


def _hash(secret: str) -> bytes:
    # The secret has 256 random bits: a plain hash cannot be searched, and it is cheap on each request.
    return hashlib.sha256(secret.encode()).digest()


def _alive() -> Any:
    unexpired = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > func.now())
    return api_keys.c.revoked_at.is_(None) & unexpired


def _expiry(days: float | None) -> datetime | None:
    if days is None:
        return None
    if not 0 < days <= 36_500:
        raise InvalidInput(f"expires: {days} is not a number of days above 0", param="expires")
    return datetime.now(UTC) + timedelta(days=days)


def _check_name(value: str, param: str) -> None:
    if not value.strip() or len(value) > MAX_NAME or not value.isprintable():
        raise InvalidInput(
            f"{param}: {value[:40]!r} is not a name; use 1-{MAX_NAME} printable characters",
            param=param,
        )


def _info(row: Any) -> KeyInfo:
    return KeyInfo(
        id=row["id"],
        name=row["name"],
        tenant=row["tenant"],
        user=row["subject"],
        scopes=list(row["scopes"]),
        rate_limit=row["rate_limit"],
        created_at=iso(row["created_at"]),
        expires_at=iso_or_none(row["expires_at"]),
        revoked_at=iso_or_none(row["revoked_at"]),
    )


async def _make_tenant(tx: AsyncConnection, tenant: str) -> None:
    try:
        await tx.execute(text("select create_tenant(:tenant)"), {"tenant": tenant})
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == BEING_ERASED:
            raise Conflict(
                f"tenant {tenant!r} is being erased; its name is free again when "
                "`isthmus tenants delete` has ended"
            ) from error
        raise
