"""Triggers: agents and tools that start when something changes, under the rights of whoever saved them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, literal_column
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import TypedDict

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.operation import Operations
from mcp_server.runs.standing import Creates
from mcp_server.runs.triggers import (
    MOST_DEBOUNCE_SECONDS,
    Following,
    fire_triggers,
    parse_condition,
)
from mcp_server.services.standing_rows import (
    LastRun,
    StandingRows,
    journal_stop,
    last_run,
)
from mcp_server.services.standing_work import WorkStarter, parse_work
from mcp_server.storage.sql.run_tables import triggers
from mcp_server.timestamps import iso, iso_or_none

# Before it nothing new can appear; what is not committed yet is still to come.
_END_XID: ColumnElement[str] = literal_column(
    "(pg_snapshot_xmin(pg_current_snapshot())::text::numeric - 1)::text::xid8"
)
_END_SEQ = 2**62


class TriggerItem(TypedDict):
    """One trigger; times are ISO 8601 in UTC.

    `stopped` says why it does not go on, None if it does. `gathered` is the number of changes that wait
    for `fire_at`.
    """

    id: str
    name: str
    condition: dict[str, Any]
    debounce_seconds: float
    work: dict[str, Any]
    enabled: bool
    stopped: str | None
    gathered: int
    fire_at: str | None
    last_fire_at: str | None
    last_run: LastRun | None
    subject: str
    version: int
    created_at: str


class TriggerService(StandingRows[TriggerItem]):
    """Every method is one operation on `trigger://NAME`.

    `changed` is called when runs were started or something was journalled; it must not block.
    """

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        queue: Creates,
        starter: WorkStarter,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(operation, control, starter, triggers, "trigger", changed)
        self._following = Following(journal.read_tenant, queue, starter, journal_stop)

    async def save(
        self,
        principal: Principal,
        name: str,
        *,
        condition: Mapping[str, Any],
        work: Mapping[str, Any],
        debounce_seconds: float = 0.0,
        idempotency_key: str | None = None,
    ) -> TriggerItem:
        """Write one trigger, whole, and start it with the rights that `principal` has now.

        It sees what changes from now on; one that is live and keeps its condition goes on where it is.
        `condition` is `{uri, verbs}`, `work` as in
        `standing_work.parse_work`. It fires when nothing more changed for `debounce_seconds`, ten times
        that after the first change at the latest.

        Raises:
            InvalidInput: a field does not fit. Forbidden: `principal` may not start the work.
            LimitExceeded: the tenant has too many triggers.
        """
        uri, fixed, wanted = self._uri(name), parse_condition(condition), parse_work(work)
        if not 0 <= debounce_seconds <= MOST_DEBOUNCE_SECONDS:
            raise InvalidInput(
                f"debounce_seconds: {debounce_seconds} is not within 0-{MOST_DEBOUNCE_SECONDS}",
                param="debounce_seconds",
            )
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            async with self._control.begin() as tx:
                known = await op.replay(tx)
                if known is not None:
                    return known
                await self._starter.check_save(tx, op, wanted, changes=True)
                before = await self._before(tx, principal, name)
                values = {
                    "name": name,
                    "condition": fixed.model_dump(mode="json"),
                    "debounce_seconds": debounce_seconds,
                    "work": wanted.model_dump(),
                }
                if before is None or _begins_again(before, fixed.model_dump(mode="json")):
                    values |= _from_now()
                return await self._put(tx, op, before, values)

    async def fire(self, now: datetime | None = None) -> int:
        """Let every trigger see what is new and start the runs that are due; return how many.

        Safe in any number of processes. `now` is for trials; without it the database's clock counts.
        """
        started = await fire_triggers(self._control, self._following, now)
        if started:
            self._changed()
        return started

    def _item(self, row: Row[Any]) -> TriggerItem:
        return TriggerItem(
            id=row.id,
            name=row.name,
            condition=row.condition,
            debounce_seconds=row.debounce_seconds,
            work=row.work,
            enabled=row.enabled,
            stopped=row.stopped,
            gathered=row.pending["count"] if row.pending else 0,
            fire_at=iso_or_none(row.fire_at),
            last_fire_at=iso_or_none(row.last_fire_at),
            last_run=last_run(row),
            subject=row.subject,
            version=row.version,
            created_at=iso(row.created_at),
        )

    async def _begin_again(self, tx: AsyncConnection, row: Row[Any]) -> dict[str, Any]:
        del tx, row
        return _from_now()


def _from_now() -> dict[str, Any]:
    return {
        "position_xid": _END_XID,
        "position_seq": _END_SEQ,
        "pending": None,
        "fire_at": None,
    }


def _begins_again(row: Row[Any], condition: dict[str, Any]) -> bool:
    return row.condition != condition or not row.enabled or row.stopped is not None
