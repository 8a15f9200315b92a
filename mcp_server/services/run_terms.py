"""On what terms a run is started: when, how often, how long, and how many of a tenant may wait."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import TypedDict

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, LimitExceeded

MOST_WAITING = 20_000
# One that waits for what it started is no run that waits for a worker, so nothing else would bound
# an agent that runs itself.
MOST_NESTED = 16
# Within this time new runs are counted in memory: starting one costs no count of thousands.
COUNTED_SECONDS = 1.0
MOST_TENANTS = 10_000
MOST_RETRIES = 100
MOST_PRIORITY = 100
MOST_DEDUPE_KEY = 200

_COUNT = text(
    """
    select count(*) from (
        select from runs where tenant = :tenant and status = 'queued'
        union all
        select from runs where tenant = :tenant and status = 'input_required'
    ) waiting
    """
)
_NESTED = text(
    """
    with recursive up as (
        select origin, 1 as depth from runs where tenant = :tenant and id = :run
        union all
        select above.origin, depth + 1 from up join runs above on above.id = substr(up.origin, 7)
        where starts_with(up.origin, 'run://') and depth < :most)
    select max(depth) from up
    """
)


class RunTerms(TypedDict, total=False):
    """What the starter of a run may choose; all of it may be left out.

    `retries`: how often a failure that a retry can mend is tried again. `timeout_seconds`: the longest
    one attempt may work. `priority`: higher ones of a tenant go first. `dedupe_key`: while a run of the
    same subject and target with this key lives, starting another one gives that one. `ttl_seconds`:
    how long the run is kept after its end. `origin`: the schedule or trigger that starts it.
    """

    retries: int
    timeout_seconds: float | None
    priority: int
    dedupe_key: str | None
    not_before: datetime | None
    expires_at: datetime | None
    ttl_seconds: float | None
    origin: str | None


def columns(principal: Principal, target: str, terms: RunTerms) -> dict[str, Any]:
    """Return the fields of a `Run` that the terms set; `target` is the URI of what is run.

    Raises:
        InvalidInput: one of them is out of its range.
    """
    retries, priority = terms.get("retries", 0), terms.get("priority", 0)
    _within("retries", retries, 0, MOST_RETRIES)
    _within("priority", priority, -MOST_PRIORITY, MOST_PRIORITY)
    for name in ("timeout_seconds", "ttl_seconds"):
        seconds: float | None = terms.get(name)
        if seconds is not None:
            _within(name, seconds, 0, 10 * 366 * 86_400)
    key = terms.get("dedupe_key")
    if key is not None:
        _within("dedupe_key", len(key), 1, MOST_DEDUPE_KEY, "characters")
        key = f"{principal.subject} {target} {key}"
    return {
        "max_retries": retries,
        "priority": priority,
        "timeout_seconds": terms.get("timeout_seconds"),
        "dedupe_key": key,
        "not_before": terms.get("not_before"),
        "expires_at": terms.get("expires_at"),
        "ttl_seconds": terms.get("ttl_seconds"),
        "origin": terms.get("origin"),
    }


def _within(name: str, value: float, least: float, most: float, unit: str = "") -> None:
    if not least <= value <= most:
        raise InvalidInput(
            f"{name}: {value} {unit}".rstrip() + f" is not within {least:g}-{most:g}", param=name
        )


class Admission:
    """Holds each tenant to so many runs that wait for a worker or for an answer, and that start one another."""

    def __init__(self, control: AsyncEngine) -> None:
        self._control = control
        # When the count was made, what it was, and how many runs were started since.
        self._counts: dict[str, tuple[float, int, int]] = {}

    async def check(self, tenant: str) -> None:
        """Count one more run of `tenant`.

        Raises:
            LimitExceeded: too many wait already.
        """
        now = asyncio.get_running_loop().time()
        counted, waiting, since = self._counts.get(tenant, (float("-inf"), 0, 0))
        # Those that were started since may have begun: nobody is refused for them unseen.
        if now - counted > COUNTED_SECONDS or (since and waiting + since >= MOST_WAITING):
            counted, waiting, since = now, await self._count(tenant), 0
        if waiting + since >= MOST_WAITING:
            self._counts[tenant] = counted, waiting, since
            raise LimitExceeded(
                f"{waiting} of your runs wait already, the most allowed; try again later",
                retry_after=5,
            )
        self._counts[tenant] = counted, waiting, since + 1

    async def check_nested(self, tenant: str, run: str, most: int = MOST_NESTED) -> None:
        """Return if `run` may start another one: if fewer than `most` have started one another.

        Raises:
            LimitExceeded: it is the last of as many as may have started one another.
        """
        async with self._control.connect() as tx:
            given = {"tenant": tenant, "run": run, "most": most}
            depth = await tx.scalar(_NESTED, given) or 0
        if depth >= most:
            raise LimitExceeded(
                f"{depth} runs have started one another already, the most allowed; answer without "
                "starting another"
            )

    async def _count(self, tenant: str) -> int:
        if len(self._counts) >= MOST_TENANTS:
            self._counts.clear()
        async with self._control.connect() as tx:
            return await tx.scalar(_COUNT, {"tenant": tenant}) or 0
