"""Workers that die, stop and come back, and PostgreSQL that is killed, at every point of a run: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.exc import SQLAlchemyError

from mcp_server.auth.principal import OWNER
from mcp_server.errors import Conflict, NotFound, Unavailable
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import load_settings
from tests.e2e.processes import LONG, environment, postmaster_pid

POINTS_WANTED, RUNS, STEPS = (2000, 400, 12) if LONG else (100, 32, 8)
LIVE = 24
WORKERS = 2
# How often a point ends or stops its worker, and how often a step of the driver kills PostgreSQL.
CHANCE = 0.06
POSTMASTER_CHANCE = 0.01
LEASE_SECONDS = 1.0
MATRIX = Path(__file__).parent / "matrix"
KINDS = ("sql", "kv", "object", "vector")


@dataclass
class Zygote:
    """The process that forks workers, and what is known of them."""

    process: subprocess.Popen[str]
    log: Path
    calm: Path
    chance: random.Random
    alive: set[int] = field(default_factory=set)
    stopped: dict[int, float] = field(default_factory=dict)
    read: int = 0

    def spawn(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self.chance.getrandbits(31)} {CHANCE}\n")
        self.process.stdin.flush()
        self.alive.add(int(self.process.stdout.readline()))

    def points(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    def tend(self) -> None:
        """Let the stopped go on once their lease is over, and put new workers in the place of the dead."""
        now = time.monotonic()
        points = self.points()
        for line in points[self.read :]:
            how, _, _, pid = line.split()
            if how == "stop":
                # Half of them wake up before anyone could have taken over.
                self.stopped[int(pid)] = now + self.chance.choice((0.3, LEASE_SECONDS + 1.0))
        self.read = len(points)
        for pid, due in list(self.stopped.items()):
            if now >= due:
                del self.stopped[pid]
                _signal(pid, signal.SIGCONT)
        self.alive = {pid for pid in self.alive if _signal(pid, 0)}
        while len(self.alive) < WORKERS:
            self.spawn()

    async def tend_forever(self) -> None:
        """Tend them beside whatever waits for them: a stopped one may hold what that needs."""
        while True:
            self.tend()
            await asyncio.sleep(0.1)

    def end(self) -> None:
        for pid in self.alive:
            _signal(pid, signal.SIGCONT)
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while any(_signal(pid, 0) for pid in self.alive) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = {pid for pid in self.alive if _signal(pid, 0)}
        for pid in left:
            _signal(pid, signal.SIGKILL)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()
        assert not left, "a worker did not drain within 30 s"


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def fragile_workers(data_dir: Path) -> Iterator[Zygote]:
    log, calm = data_dir.with_suffix(".points"), data_dir.with_suffix(".calm")
    errors = data_dir.with_suffix(".errors").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.fragile", str(log), str(calm), str(LEASE_SECONDS)],
        env=environment(data_dir, PLUGINS=str(MATRIX), AUTH="off"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    zygote = Zygote(process, log, calm, random.Random(20261122))
    try:
        yield zygote
    finally:
        zygote.end()
        errors.close()


SQL_TABLE = "create table done (run text, step text, attempt int, at timestamptz)"
LEFT = text(
    """
    select (select count(*) from runs where status in ('queued', 'running', 'input_required')),
        (select count(*) from runs where lease is not null),
        (select count(*) from run_leases where expires_at < clock_timestamp() - interval '5 s')
    """
)


@pytest.mark.timeout(3600)
async def test_runs_survive_every_death(data_dir: Path) -> None:
    settings = load_settings(
        data_dir=data_dir, llm_url=("scripted:",), plugins=(MATRIX,), auth="off"
    )
    async with open_runtime(settings, concurrency=0) as runtime:
        made = await runtime.bus.call(OWNER, "sql_execute", {"sql": SQL_TABLE})
        assert not made.is_error, made.text
        with forgiving(), fragile_workers(data_dir) as workers:
            tending = asyncio.create_task(workers.tend_forever())
            try:
                runs = await torment(runtime, workers, data_dir)
            finally:
                tending.cancel()
        points = Counter(line.rsplit(" ", 1)[0] for line in workers.points())
        left = await _row(runtime, LEFT)
        wrong = [problem async for problem in check(runtime, runs)]
    kills = sum(points.values())
    for point, count in sorted(points.items()):
        print(f"{count:5d} {point}")
    print(f"\n{kills} deaths of workers over {len(runs)} runs of {STEPS} steps; left {tuple(left)}")
    print(f"lost, doubled or stale: {len(wrong)}", *wrong[:20], sep="\n")
    assert wrong == []
    assert tuple(left) == (0, 0, 0)
    assert kills >= POINTS_WANTED


@contextmanager
def forgiving() -> Iterator[None]:
    """Overlook what the driver leaves behind when its server dies: a future of its own that nobody awaits."""
    loop = asyncio.get_running_loop()
    strict = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), asyncpg.ConnectionDoesNotExistError):
            (strict or loop.default_exception_handler)(loop, context)  # pyright: ignore[reportCallIssue]

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(strict)


async def torment(runtime: Runtime, workers: Zygote, data_dir: Path) -> list[str]:
    """Start runs and answer what they ask, while workers and PostgreSQL die; return the runs, ended."""
    runs: list[str] = []
    live: set[str] = set()
    killed = 0
    deadline = time.monotonic() + (3000 if LONG else 400)
    while time.monotonic() < deadline:
        enough = len(workers.points()) >= POINTS_WANTED
        if enough and not workers.calm.exists():
            workers.calm.touch()
        while len(live) < LIVE and (len(runs) < RUNS or not enough):
            arguments = {"steps": STEPS, "ask": len(runs) % 2 == 0}
            started = await _try(
                lambda a=arguments: runtime.services.runs.start_tool(OWNER, "effects", a)
            )
            runs.append(started["run"])
            live.add(started["run"])
        for run in list(live):
            item = await _try(lambda run=run: runtime.services.runs.get(OWNER, run))
            if item["status"] == "input_required":
                await _answer(runtime, run)
            elif item["status"] not in ("queued", "running"):
                live.discard(run)
        if enough and not live:
            break
        if not enough and workers.chance.random() < POSTMASTER_CHANCE:
            pid = postmaster_pid(data_dir)
            killed += pid is not None and _signal(pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
    print(f"\n{killed} kills of the postmaster", end="")
    return runs


async def _answer(runtime: Runtime, run: str) -> None:
    """Answer twice at once, as two people would: one of them is first."""

    async def give(answer: str) -> bool:
        try:
            await runtime.services.runs.input(OWNER, run, answer)
        except Conflict:
            return False
        except Unavailable:
            return True
        return True

    await asyncio.gather(give("yes"), give("yes"))


async def _try(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the database answers: it is killed as well."""
    for _ in range(600):
        try:
            return await ask()
        except (Unavailable, SQLAlchemyError, OSError):
            await asyncio.sleep(0.1)
    raise AssertionError("the control database did not come back within a minute")


async def _row(runtime: Runtime, query: TextClause) -> Any:
    async def ask() -> Any:
        async with runtime.engines.control.connect() as connection:
            return (await connection.execute(query)).one()

    return await _try(ask)


async def check(runtime: Runtime, runs: list[str]) -> AsyncGenerator[str]:
    """Yield what is wrong with the effects, the answers and the events of the runs."""
    for run in runs:
        item = await runtime.services.runs.get(OWNER, run)
        if item["status"] != "completed":
            yield f"{run}: {item['status']} {item['error']}"
            continue
        if item["output"]["is_error"]:
            yield f"{run}: {item['output']['text']}"
        for number in range(STEPS):
            kind = KINDS[number % 4]
            counted = await _counted(runtime, run, f"{kind}/{number}", kind)
            if counted != 1:
                yield f"{run} {kind}/{number}: done {counted} times"
        events: list[dict[str, Any]] = []
        while page := (await runtime.services.runs.events(OWNER, run, len(events)))["items"]:
            events += page
        if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
            yield f"{run}: the events have gaps"
        if [event.get("status") for event in events][-1] != "completed":
            yield f"{run}: the last event is {events[-1]}"
        async for problem in _stale(runtime, run):
            yield problem


async def _counted(runtime: Runtime, run: str, step: str, kind: str) -> int:
    """Return how often a step took effect."""
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


async def _stale(runtime: Runtime, run: str) -> AsyncGenerator[str]:
    """Yield the effects that a worker wrote after it had lost the run.

    The journal numbers an effect inside the transaction that holds the run's row, so it stands
    before the change that took the run away.
    """
    query = text(
        "select verb, uri, step from journal where tenant = 'default' and (run = :run) order by xid, seq"
    )
    async with runtime.engines.control.connect() as connection:
        rows = (await connection.execute(query, {"run": run})).all()
    running = False
    for row in rows:
        if row.uri == f"run://{run}":
            running = row.verb == "running"
        elif not running and not row.uri.startswith("sql://"):
            yield f"{run}: {row.uri} was written while nobody held the run"
