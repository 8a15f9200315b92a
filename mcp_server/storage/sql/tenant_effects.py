"""The effects of tenants' statements that carry an idempotency key: marked in the data database, in the statement's transaction.

The marks are the server's: tables in a schema of the owner, reached through two SECURITY DEFINER
functions that a tenant's writing role calls around its statement. Three things keep the tenant itself
out: its statements may name neither the schema nor the functions (the parser), the tables are not
granted to anybody, and the functions refuse a caller without the proof that only the server derives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import LeaseLost
from mcp_server.storage.sql import EffectKey, SqlResult
from mcp_server.storage.sql.schema import encode_json
from mcp_server.storage.sql.tenant_effects_schema import BEGIN_EFFECT, FINISH_EFFECT, MARK_UNIT
from mcp_server.storage.sql.wire import LoginRefused, PostgresError, Session

INSUFFICIENT_PRIVILEGE = "42501"

# An answer larger than this is not stored: its repetition has the columns and no rows.
MAX_STORED_BYTES = 1024 * 1024
PURGE_BATCH = 10_000

_ADMIT = text(
    """
    insert into isthmus.writers (role, proof) values (:role, :proof)
    on conflict (role) do update set proof = excluded.proof
    """
)
# A tenant of an earlier version may not mark units of work yet.
_ADMITTED = text(
    f"""
    select proof = :proof and has_function_privilege(role, '{MARK_UNIT}', 'execute')
    from isthmus.writers where role = :role
    """  # noqa: S608  a name of ours
)
_FENCE = text(
    """
    insert into isthmus.fences as f (run, attempt) values (:run, :attempt)
    on conflict (run) do update set attempt = excluded.attempt, at = clock_timestamp()
    where f.attempt < excluded.attempt
    """
)
_FENCED = text("select attempt from isthmus.fences where run = :run")
# The server ends a transaction that idles for ten seconds: a mark that is under way is decided by then.
_SETTLE_TIMEOUT = text("set local lock_timeout = '15s'")
_DROP_UNIT = text(
    "insert into isthmus.units (unit, kept) values (:unit, false) on conflict do nothing"
)
_KEPT_UNIT = text("select kept from isthmus.units where unit = :unit")
_PURGE = tuple(
    text(
        f"""
        with old as (
            select ctid from isthmus.{table}
            where at < now() - make_interval(secs => :seconds) limit {PURGE_BATCH}
            for update skip locked)
        delete from isthmus.{table} where ctid in (select ctid from old)
        """  # noqa: S608  names of ours
    )
    for table in ("effects", "fences", "units")
)


async def admit(connection: AsyncConnection, writer: str, proof: str) -> None:
    """Let a tenant's writing role mark effects, for the owner; replaces an earlier proof."""
    await connection.exec_driver_sql(f"grant usage on schema isthmus to {writer}")
    await connection.exec_driver_sql(
        f"grant execute on function {BEGIN_EFFECT}, {FINISH_EFFECT}, {MARK_UNIT} to {writer}"
    )
    await connection.execute(_ADMIT, {"role": writer, "proof": _digest(proof)})


async def is_admitted(connection: AsyncConnection, writer: str, proof: str) -> bool:
    """Tell whether `admit` was done with this proof."""
    given = {"role": writer, "proof": _digest(proof)}
    return await connection.scalar(_ADMITTED, given) is True


async def fence(connection: AsyncConnection, run: str, attempt: int) -> None:
    """Refuse from now on what older leases of a run do; returns when none of it can commit any more.

    Raises:
        LeaseLost: a newer lease was here already.
    """
    await connection.execute(_FENCE, {"run": run, "attempt": attempt})
    if (await connection.scalar(_FENCED, {"run": run}) or 0) > attempt:
        raise LeaseLost


async def settle_unit(connection: AsyncConnection, unit: str) -> bool:
    """Return whether a unit of work was kept; one that was not can never be kept any more.

    A transaction of the unit that is under way is waited for.
    """
    await connection.execute(_SETTLE_TIMEOUT)
    await connection.execute(_DROP_UNIT, {"unit": unit})
    return await connection.scalar(_KEPT_UNIT, {"unit": unit}) is True


async def purge(connection: AsyncConnection, seconds: float) -> int:
    """Delete marks, fences and units older than `seconds`, up to 10,000 of each; return how many."""
    deleted = [await connection.execute(query, {"seconds": seconds}) for query in _PURGE]
    return sum(result.rowcount for result in deleted)


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of one call: `statement` and `arguments` are digests, `proof` admits the role."""

    proof: str
    effect: EffectKey
    statement: str
    arguments: str

    @classmethod
    def of(cls, proof: str, effect: EffectKey, sql: str, params: Sequence[Any]) -> Mark:
        arguments = json.dumps(list(params), ensure_ascii=True)
        return cls(proof, effect, _digest(sql).hex(), _digest(arguments).hex())

    async def begin(self, session: Session) -> SqlResult | None:
        """Return what the effect answered if it is done, else mark it as done with the transaction.

        Raises:
            LoginRefused: the role is not admitted, or with another proof. PostgresError.
        """
        key, run, attempt = self._identity()
        given = (self.proof, key, self.statement, self.arguments, run, attempt)
        try:
            stored = await session.scalar(
                "select isthmus.begin_effect("
                "$1::text, $2::text, $3::text, $4::text, $5::text, $6::bigint)",
                given,
            )
        except PostgresError as error:
            if error.sqlstate == INSUFFICIENT_PRIVILEGE:
                raise LoginRefused("effects") from error
            raise
        return None if stored is None else _restored(stored)

    async def finish(self, session: Session, result: SqlResult) -> None:
        """Store the answer; the last thing before the commit.

        Raises:
            PostgresError: LEASE_LOST among others.
        """
        key, run, attempt = self._identity()
        await session.scalar(
            "select isthmus.finish_effect("
            "$1::text, $2::text, $3::text, $4::text, $5::bigint, $6::text)",
            (self.proof, key, self.statement, run, attempt, _stored(result)),
        )

    def _identity(self) -> tuple[str, str | None, str | None]:
        attempt = self.effect.attempt
        return self.effect.key, self.effect.run, None if attempt is None else str(attempt)


def _stored(result: SqlResult) -> str:
    whole = {
        "columns": result.columns,
        "rows": result.rows,
        "row_count": result.row_count,
        "more": result.more,
    }
    encoded = encode_json(whole)
    if len(encoded) <= MAX_STORED_BYTES:
        return encoded
    return encode_json(whole | {"rows": [], "more": True})


def _restored(stored: str) -> SqlResult:
    whole = json.loads(stored)
    columns = [(name, type_) for name, type_ in whole["columns"]]
    return SqlResult(columns, whole["rows"], whole["row_count"], whole["more"])


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()
