"""What each key asked of each model, by day: counted as answers end, written in batches behind them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import TypedDict

from mcp_server.auth.principal import current_principal
from mcp_server.errors import Unauthenticated
from mcp_server.llm.metered import Spent
from mcp_server.storage.sql.control import DISCONNECTED
from mcp_server.write_behind import WriteBehind

logger = logging.getLogger(__name__)

# A crash loses at most what was counted in so long: no answer waits for a write.
FLUSH_SECONDS = 1.0
# While the database is away counts are added up; past so many keys, models and days new ones are dropped.
MOST_WAITING = 50_000
_ANSWERED = frozenset({"ok", "cached", "cancelled"})


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    failed: int = 0
    cached: int = 0
    estimated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


_COUNTED = tuple(each.name for each in fields(_Counts))

# A tenant that is being erased is not written of any more: nothing of it must come back.
_ADD = text(
    f"""
    insert into model_usage (tenant, day, key_id, model, {", ".join(_COUNTED)})
    select t.name, :day, :key_id, :model, {", ".join(f":{name}" for name in _COUNTED)}
    from tenants t where t.name = :tenant and t.erasing_at is null for key share
    on conflict (tenant, day, key_id, model) do update set
    {", ".join(f"{name} = model_usage.{name} + excluded.{name}" for name in _COUNTED)}
    """  # noqa: S608  names of our own
)
_READ = text(
    f"""
    select u.day::text as day, u.tenant, nullif(u.key_id, '') as key, k.name, u.model, {", ".join(f"u.{name}" for name in _COUNTED)}
    from model_usage u left join api_keys k on k.id = u.key_id
    where u.day > :after and (cast(:key as text) is null or u.key_id = :key)
    order by u.day, u.tenant, u.key_id, u.model
    """  # noqa: S608  the same
)

_Place = tuple[str, date, str, str]


class UsageItem(TypedDict):
    """One key's requests to one model on one day (UTC); `key` is None for the local owner.

    `estimated` is how many of the requests the model did not count itself, as when a client left.
    """

    day: str
    tenant: str
    key: str | None
    name: str | None
    model: str
    requests: int
    failed: int
    cached: int
    estimated: int
    prompt_tokens: int
    completion_tokens: int


class ModelUsage:
    """Counts for the caller of the request at hand; `observers` are told of each request as well."""

    def __init__(self) -> None:
        self.observers: list[Callable[[Spent], None]] = []
        self._waiting: defaultdict[_Place, _Counts] = defaultdict(_Counts)
        self._writer = WriteBehind("model-usage", FLUSH_SECONDS, self._flush)

    def note(self, spent: Spent) -> None:
        """Count one request that ended."""
        for observer in self.observers:
            observer(spent)
        try:
            caller = current_principal()
        except Unauthenticated:  # work of the server's own
            return
        place = (caller.tenant, datetime.now(UTC).date(), caller.key_id or "", spent.model)
        if place not in self._waiting and len(self._waiting) >= MOST_WAITING:
            return
        counts = self._waiting[place]
        counts.requests += 1
        counts.failed += spent.outcome not in _ANSWERED
        counts.cached += spent.outcome == "cached"
        counts.estimated += spent.estimated
        counts.prompt_tokens += spent.prompt_tokens
        counts.completion_tokens += spent.completion_tokens
        self._writer.arrived()

    def writing(self, control: AsyncEngine) -> AbstractAsyncContextManager[None]:
        """Write what was counted while the context is open, and the rest on the way out."""
        return self._writer.writing(control)

    async def _flush(self, control: AsyncEngine) -> None:
        if not self._waiting:
            return
        taken, self._waiting = self._waiting, defaultdict(_Counts)
        # In one order everywhere: two processes that add to the same rows do not wait for each other in a circle.
        rows = [_row(place, taken[place]) for place in sorted(taken)]
        try:
            async with control.begin() as tx:
                await tx.execute(_ADD, rows)
        except (SQLAlchemyError, *DISCONNECTED) as error:
            logger.warning("usage: %d counts wait for the database (%s)", len(rows), error)
            for place, counts in taken.items():
                later = self._waiting[place]
                for name in _COUNTED:
                    setattr(later, name, getattr(later, name) + getattr(counts, name))
            self._writer.arrived()


def _row(place: _Place, counts: _Counts) -> dict[str, object]:
    tenant, day, key_id, model = place
    counted = {name: getattr(counts, name) for name in _COUNTED}
    shown = model.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return {"tenant": tenant, "day": day, "key_id": key_id, "model": shown, **counted}


async def read_usage(
    control: AsyncEngine, *, days: int = 30, key: str | None = None
) -> list[UsageItem]:
    """Read what was counted in the last `days` days, today included, of all keys or of one."""
    after = datetime.now(UTC).date() - timedelta(days=days)
    async with control.connect() as connection:
        rows = (await connection.execute(_READ, {"after": after, "key": key})).mappings()
        return [UsageItem(**row) for row in rows]  # pyright: ignore[reportArgumentType]
