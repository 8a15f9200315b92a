"""Runs that are started and answered while their workers and PostgreSQL die, and what is wrong with them afterwards."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import TextClause, text

from mcp_server.auth.principal import OWNER
from mcp_server.errors import Conflict, NotFound, Unavailable
from mcp_server.runtime import Runtime
from tests.e2e.deaths import Zygote, forgiving, insistent, signalled
from tests.e2e.processes import LONG, postmaster_pid

# A folder of plugins whose tools add one to counters, in stores of each kind.
PLUGINS = Path(__file__).parent / "matrix"
KINDS = ("sql", "kv", "object", "vector")
SQL_TABLE = "create table done (run text, step text, attempt int, at timestamptz)"
# How often a step of the driver kills PostgreSQL.
POSTMASTER_CHANCE = 0.01
LEFT = text(
    """
    select (select count(*) from runs where status in ('queued', 'running', 'input_required')),
        (select count(*) from runs where lease is not null),
        (select count(*) from run_leases where expires_at < clock_timestamp() - interval '5 s')
    """
)


@dataclass
class Torment:
    """Keeps `live` runs going, at least `runs` in all, until workers died at `points` points."""

    runtime: Runtime
    workers: Zygote
    start: Callable[[int], Awaitable[Any]]
    answer: Any
    points: int
    runs: int
    live: int = 24
    postmasters: int = 0

    async def endure(self) -> list[str]:
        """Return the runs, ended."""
        with forgiving():
            tending = asyncio.create_task(self.workers.tend_forever())
            try:
                return await self._endure()
            finally:
                tending.cancel()

    async def _endure(self) -> list[str]:
        runs: list[str] = []
        live: set[str] = set()
        deadline = time.monotonic() + (3000 if LONG else 400)
        while time.monotonic() < deadline:
            enough = len(self.workers.points()) >= self.points
            if enough and not self.workers.calm.exists():
                self.workers.calm.touch()
            while len(live) < self.live and (len(runs) < self.runs or not enough):
                started = await insistent(partial(self.start, len(runs)))
                runs.append(started["run"])
                live.add(started["run"])
            live -= {run for run in list(live) if await self._is_over(run)}
            if enough and not live:
                break
            if not enough and self.workers.chance.random() < POSTMASTER_CHANCE:
                pid = postmaster_pid(self.runtime.settings.data_dir)
                self.postmasters += pid is not None and signalled(pid, signal.SIGKILL)
            await asyncio.sleep(0.1)
        return runs

    async def _is_over(self, run: str) -> bool:
        item = await insistent(lambda: self.runtime.services.runs.get(OWNER, run))
        if item["status"] == "input_required":
            # Twice at once, as two people would: one of them is first.
            await asyncio.gather(self._give(run), self._give(run))
        return item["status"] not in {"queued", "running", "input_required"}

    async def _give(self, run: str) -> None:
        try:
            await self.runtime.services.runs.input(OWNER, run, self.answer)
        except (Conflict, Unavailable):
            return


async def aftermath(torment: Torment, runs: Iterable[str], wrong: Iterable[str]) -> None:
    """Tell how often workers died, and fail if anything is wrong or left."""
    points = Counter(line.rsplit(" ", 1)[0] for line in torment.workers.points())
    left = tuple(await row(torment.runtime, LEFT))
    deaths, problems, ended = sum(points.values()), list(wrong), list(runs)
    for point, count in sorted(points.items()):
        print(f"{count:5d} {point}")
    print(f"\n{torment.postmasters} kills of the postmaster, {deaths} deaths of workers", end="")
    print(f" over {len(ended)} runs; left {left}")
    print(f"lost, doubled or stale: {len(problems)}", *problems[:20], sep="\n")
    assert problems == []
    assert left == (0, 0, 0)
    assert deaths >= torment.points


async def row(runtime: Runtime, query: TextClause, **given: Any) -> Any:
    """Return the one row of a query on the control database."""

    async def ask() -> Any:
        async with runtime.engines.control.connect() as connection:
            return (await connection.execute(query, given)).one()

    return await insistent(ask)


async def events_of(runtime: Runtime, run: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []

    async def ask() -> list[dict[str, Any]]:
        return (await runtime.services.runs.events(OWNER, run, len(events)))["items"]

    while page := await insistent(ask):
        events += page
    return events


def wrong_in(events: list[dict[str, Any]]) -> list[str]:
    """Tell what is wrong with the events of a run that is completed."""
    wrong: list[str] = []
    if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
        wrong.append("the events have gaps")
    if events[-1].get("status") != "completed":
        wrong.append(f"the last event is {events[-1]}")
    return wrong


async def counted(runtime: Runtime, run: str, step: str, kind: str) -> int:
    """Return how often a step took effect."""
    return await insistent(partial(_counted, runtime, run, step, kind))


async def _counted(runtime: Runtime, run: str, step: str, kind: str) -> int:
    services, name = runtime.services, f"{run}/{step}"
    try:
        match kind:
            case "sql":
                sql = "select count(*) from done where run = $1 and step = $2"
                rows = await services.sql.query(OWNER, sql, [run, step])
                return rows["rows"][0][0]
            case "kv":
                return len((await services.kv.get(OWNER, "done", name))["value"])
            case "object":
                found = await services.objects.get(OWNER, "done", name)
                return str(found.get("text")).count(";")
            case _:
                return (await services.vectors.get(OWNER, "done", name))["text"].count(";")
    except NotFound:
        return 0


async def stale(runtime: Runtime, run: str) -> AsyncGenerator[str]:
    """Yield the effects that a worker wrote after it had lost the run.

    The journal numbers an effect inside the transaction that holds the run's row, so it stands
    before the change that took the run away.
    """
    query = text(
        "select verb, uri, step from journal where tenant = 'default' and (run = :run) order by xid, seq"
    )

    async def ask() -> Any:
        async with runtime.engines.control.connect() as connection:
            return (await connection.execute(query, {"run": run})).all()

    rows = await insistent(ask)
    running = False
    for entry in rows:
        if entry.uri == f"run://{run}":
            running = entry.verb == "running"
        elif not running and not entry.uri.startswith("sql://"):
            yield f"{run}: {entry.uri} was written while nobody held the run"
