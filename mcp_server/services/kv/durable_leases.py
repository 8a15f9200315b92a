"""Leases with fencing tokens in the control database, decided by its clock."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.services.kv.items import Address, Held

# The token of a lease that is taken over is drawn under the row's lock: it is above all before it.
# So that this holds for ever, the row outlives its lease, also one that is given back.
_ACQUIRE = text(
    """
    insert into kv_leases (tenant, namespace, key, token, owner, expires_at)
    values (:tenant, :namespace, :key, next_version(:tenant), :owner,
        clock_timestamp() + make_interval(secs => :ttl))
    on conflict (tenant, namespace, key) do update set token = next_version(excluded.tenant),
        owner = excluded.owner, expires_at = clock_timestamp() + make_interval(secs => :ttl)
    where kv_leases.expires_at <= clock_timestamp()
    returning token, owner, expires_at
    """
)
_RENEW = text(
    """
    update kv_leases set expires_at = clock_timestamp() + make_interval(secs => :ttl),
        owner = coalesce(:owner, owner)
    where tenant = :tenant and namespace = :namespace and key = :key and token = :token
        and expires_at > clock_timestamp()
    returning token, owner, expires_at
    """
)
_RELEASE = text(
    """
    update kv_leases set expires_at = clock_timestamp() - interval '1 second'
    where tenant = :tenant and namespace = :namespace and key = :key and token = :token
        and expires_at > clock_timestamp()
    returning 1
    """
)
_HOLDER = text(
    """
    select owner, expires_at from kv_leases
    where tenant = :tenant and namespace = :namespace and key = :key
        and expires_at > clock_timestamp()
    """
)


async def acquire(
    tx: AsyncConnection, at: Address, owner: str | None, ttl: float, token: int | None
) -> Held:
    """Take a lease that nobody holds; with `token`, prolong one that is held under it."""
    given = at.row() | {"owner": owner, "ttl": float(ttl)}
    statement, terms = (_ACQUIRE, given) if token is None else (_RENEW, given | {"token": token})
    taken = (await tx.execute(statement, terms)).first()
    if taken is not None:
        return Held(taken.token, taken.owner, taken.expires_at)
    holder = (await tx.execute(_HOLDER, at.row())).first()
    return Held() if holder is None else Held(None, holder.owner, holder.expires_at)


async def release(tx: AsyncConnection, at: Address, token: int) -> bool:
    """Give a lease back; False if it is not held under that token."""
    return await tx.scalar(_RELEASE, at.row() | {"token": token}) is not None
