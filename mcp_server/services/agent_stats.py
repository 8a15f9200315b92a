"""Figures of agents over a window of time: how their runs ended, how long they took, and what they used up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Double,
    Row,
    Select,
    Text,
    case,
    cast,
    func,
    literal,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import TypedDict

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.operation import Operations
from mcp_server.runs.record import ENDED
from mcp_server.services import names
from mcp_server.services.run_access import listing, visible
from mcp_server.services.run_pages import STATUSES
from mcp_server.storage.sql.run_tables import runs
from mcp_server.timestamps import iso

MOST_HOURS = 24.0 * 366
# Of an agent's error codes and of its versions, those with the most runs.
MOST_NAMED = 20
_SHARES = (0.5, 0.95, 0.99)
_SUMS = ("turns", "tool_calls", "tool_errors", "prompt_tokens", "completion_tokens", "cost")


class Percentiles(TypedDict):
    """Seconds within which half, 95 % and 99 % of the runs were done; None if there are none."""

    p50: float | None
    p95: float | None
    p99: float | None


class ErrorCount(TypedDict):
    """How many runs failed, expired or were cancelled with an error of one code."""

    code: str
    runs: int


class RunFigures(TypedDict):
    """Figures of runs; `cost` is in USD.

    `seconds` are from a run's first attempt to its end, waits for people included; `queue_seconds` from
    when it was due to its first attempt.
    """

    runs: int
    statuses: dict[str, int]
    seconds: Percentiles
    queue_seconds: Percentiles
    turns: int
    tool_calls: int
    tool_errors: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


class VersionFigures(RunFigures):
    version: int | None


class AgentFigures(RunFigures):
    agent: str
    errors: list[ErrorCount]


class AgentStats(TypedDict):
    """Figures of the runs that were made since `since`: all together, and by agent, most runs first.

    `versions` are there if one agent was asked for, the newest first.
    """

    since: str
    until: str
    total: RunFigures
    items: list[AgentFigures]
    items_left_out: int
    versions: list[VersionFigures]


class AgentStatsService:
    """One operation on the list of runs: it counts those that the caller may see."""

    def __init__(self, operation: Operations, control: AsyncEngine) -> None:
        self._operation = operation
        self._at_once = control.execution_options(isolation_level="AUTOCOMMIT")

    async def stats(
        self,
        principal: Principal,
        *,
        agent: str | None = None,
        hours: float = 24.0,
        limit: int | None = None,
    ) -> AgentStats:
        """Return the figures of the last `hours` hours, of one agent or of all; of `limit` agents.

        Raises:
            InvalidInput: the hours or the limit are out of their range, or the name is none.
        """
        size = names.page_size(limit)
        if not 0 < hours <= MOST_HOURS:
            raise InvalidInput(
                f"hours: {hours} is not within 0-{MOST_HOURS:g}; runs that were erased are not counted",
                param="hours",
            )
        if agent is not None:
            names.container(agent, "agent")
        until = datetime.now(UTC)
        since = until - timedelta(hours=hours)
        where = _where(principal, agent, since)
        keys = [runs.c.agent] if agent is None else [runs.c.agent, runs.c.agent_version]
        async with self._operation(principal, *listing(principal)):
            async with self._at_once.connect() as connection:
                rows = (await connection.execute(_figures(where, keys))).all()
                failures = (await connection.execute(_failures(where))).all()
        of_all = 2 ** len(keys) - 1
        (total,) = (row for row in rows if row.level == of_all)
        agents = sorted((row for row in rows if row.level == of_all // 2), key=_most_runs)
        versions = [row for row in rows if row.level == 0] if agent is not None else []
        return AgentStats(
            since=iso(since),
            until=iso(until),
            total=_run_figures(total),
            items=[_agent_figures(row, failures) for row in agents[:size]],
            items_left_out=max(len(agents) - size, 0),
            versions=[
                VersionFigures(version=row.agent_version, **_run_figures(row))
                for row in sorted(versions, key=_newest)[:MOST_NAMED]
            ],
        )


def _most_runs(row: Row[Any]) -> tuple[int, str]:
    return -row.runs, row.agent


def _newest(row: Row[Any]) -> int:
    return -(row.agent_version or 0)


def _agent_figures(row: Row[Any], failures: Sequence[Row[Any]]) -> AgentFigures:
    failed = [each for each in failures if each.agent == row.agent][:MOST_NAMED]
    errors = [ErrorCount(code=each.code or "internal", runs=each.runs) for each in failed]
    return AgentFigures(agent=row.agent, errors=errors, **_run_figures(row))


def _where(principal: Principal, agent: str | None, since: datetime) -> list[ColumnElement[bool]]:
    of_agent = runs.c.agent.is_not(None) if agent is None else runs.c.agent == agent
    own = (runs.c.tenant == principal.tenant, runs.c.created_at >= since, of_agent)
    return [*own, *visible(principal)]


def _figures(
    where: Sequence[ColumnElement[bool]], keys: Sequence[ColumnElement[Any]]
) -> Select[*tuple[Any, ...]]:
    """Build the query: a row for each combination of `keys`, for each of the first of them, and for all.

    `level` has a bit for each key that a row is not about.
    """
    # A retry moves `not_before`: it is when the run was due only if it began after it.
    due = case((runs.c.not_before <= runs.c.started_at, runs.c.not_before), else_=runs.c.created_at)
    took = func.extract("epoch", runs.c.ended_at - runs.c.started_at)
    waited = func.extract("epoch", runs.c.started_at - due)
    shares = literal(list(_SHARES), ARRAY(Double))
    columns: list[ColumnElement[Any]] = [
        func.grouping(*keys).label("level"),
        func.count().label("runs"),
        *(func.count().filter(runs.c.status == name).label(name) for name in STATUSES),
        func.percentile_cont(shares).within_group(cast(took, Double)).label("seconds"),
        func.percentile_cont(shares).within_group(cast(waited, Double)).label("queue_seconds"),
        *(func.coalesce(func.sum(runs.c[name]), 0).label(name) for name in _SUMS),
    ]
    return select(*keys, *columns).where(*where).group_by(func.rollup(*keys))


def _failures(where: Sequence[ColumnElement[bool]]) -> Select[*tuple[Any, ...]]:
    """Build the query for how often each agent's runs ended with each error, the most frequent first."""
    code = func.json_extract_path_text(cast(type_coerce(runs.c.error, Text), JSON), "code")
    count = func.count().label("runs")
    failed = select(runs.c.agent, code.label("code"), count).where(*where)
    failed = failed.where(runs.c.status.in_(ENDED), runs.c.error.is_not(None))
    return failed.group_by(runs.c.agent, code).order_by(count.desc(), code)


def _run_figures(row: Row[Any]) -> RunFigures:
    statuses = {name: getattr(row, name) for name in STATUSES}
    return RunFigures(
        runs=row.runs,
        statuses={name: count for name, count in statuses.items() if count},
        seconds=_percentiles(row.seconds),
        queue_seconds=_percentiles(row.queue_seconds),
        turns=int(row.turns),
        tool_calls=int(row.tool_calls),
        tool_errors=int(row.tool_errors),
        prompt_tokens=int(row.prompt_tokens),
        completion_tokens=int(row.completion_tokens),
        cost=round(float(row.cost), 6),
    )


def _percentiles(found: Sequence[float] | None) -> Percentiles:
    p50, p95, p99 = (round(value, 3) for value in found) if found else (None, None, None)
    return Percentiles(p50=p50, p95=p95, p99=p99)
