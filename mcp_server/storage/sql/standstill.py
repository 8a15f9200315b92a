"""A moment at which no statement of a tenant is under way, so that copies of both databases belong together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import Unavailable

# "standing" in ASCII. Whoever announces a statement for the tenants' database shares this lock until it
# is announced; whoever wants a standstill has it alone.
_KEY = 0x7374616E64696E67
_SHARE = text(f"select pg_advisory_xact_lock_shared({_KEY})")
_STOP = text(f"select pg_try_advisory_lock({_KEY})")
_GO = text(f"select pg_advisory_unlock({_KEY})")
# An intent without an outcome is of a statement that runs, or of a process that died with it. A unit of
# work whose process died between its two commits is settled by any server.
_IDLE = text(
    """
    with recent as materialized (
        select verb, labels from journal
        where at > now() - make_interval(secs => :seconds) and labels::text like '%statement:%')
    select count(*) = 0 and not exists (select from units) from recent as intent where verb = 'intent' and not exists (
        select from recent as outcome
        where outcome.verb in ('write', 'abort') and outcome.labels && intent.labels)
    """
)
_AGAIN_SECONDS = 0.05
_BUSY = "the tenants' statements do not end, or a unit of work waits for a server that settles it"


async def pass_gate(tx: AsyncConnection) -> None:
    """Announce a statement in `tx` only when nobody wants a standstill; to be called first."""
    await tx.execute(_SHARE)


@asynccontextmanager
async def standstill(control: AsyncEngine, seconds: float) -> AsyncGenerator[None]:
    """Let no statement of a tenant begin while the context is open, and enter when all have ended.

    `seconds` is the longest that a statement may take: an intent older than that is a dead process's.

    Raises:
        Unavailable: they did not end in that time.
    """
    options = control.execution_options(isolation_level="AUTOCOMMIT")
    async with options.connect() as gate:
        await _until(
            lambda: gate.scalar(_STOP), seconds, "another export holds the tenants' statements"
        )
        try:
            idle = {"seconds": seconds}
            await _until(lambda: gate.scalar(_IDLE, idle), seconds, _BUSY)
            yield
        finally:
            await gate.execute(_GO)


async def _until(true: Callable[[], Awaitable[bool | None]], seconds: float, else_: str) -> None:
    try:
        async with asyncio.timeout(2 * seconds):
            while not await true():  # noqa: ASYNC110  only the database knows
                await asyncio.sleep(_AGAIN_SECONDS)
    except TimeoutError as error:
        raise Unavailable(f"{else_}; try again") from error
