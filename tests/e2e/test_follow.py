"""One run, followed at once through every door, by clients that keep losing their connection: all see the same."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text

from mcp_server.auth.principal import OWNER
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import Settings
from tests.doors import raw
from tests.doors.tasks_client import over_http
from tests.e2e import followers
from tests.e2e.followers import DISCONNECTS, Follower, Scene, TaskFollower
from tests.e2e.processes import ServeProcess, environment

PLUGINS = Path(__file__).parent / "follow"
LEASE_SECONDS = 2.0
TURNS = 40
ANSWER = " ".join(f"word-{number} ☃" for number in range(150))
FOLLOWERS: tuple[type[Follower], ...] = (
    followers.TaskFollower,
    followers.Listener,
    followers.Subscriber,
    followers.EventsOverHttp,
    followers.EventsOverStdio,
    followers.InProcess,
)
COMPACTED = "select compacted from runs where id = :run"
Event = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A server that executes nothing, two workers, and a process - this one - that only looks."""

    url: str
    data_dir: Path
    settings: dict[str, str]
    runtime: Runtime
    workers: tuple[int, ...]


def script() -> str:
    """A model that calls a tool turn after turn, at last one that waits, and then says a lot."""

    def turn(arguments: dict[str, str]) -> Event:
        return {"tool_calls": [{"name": "pace", "arguments": arguments}], "delay_ms": 40}

    turns = [turn({})] * TURNS + [turn({"topic": "agent"}), {"text": ANSWER}]
    return json.dumps({"turns": turns})


@asynccontextmanager
async def two_workers(env: dict[str, str]) -> AsyncIterator[tuple[int, ...]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.e2e.quick_workers", str(LEASE_SECONDS)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=env,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"\n\n")
        pids = [int(await process.stdout.readline()) for _ in range(2)]
        yield tuple(pids)
    finally:
        process.stdin.close()
        async with asyncio.timeout(30):
            await process.wait()


@pytest.fixture(scope="module")
async def stage(anyio_backend: object, scratch: Path) -> AsyncIterator[Stage]:
    data_dir, model = scratch / "follow", scratch / "follow.yaml"
    model.write_text(script(), encoding="utf-8")
    settings = {"AUTH": "off", "PLUGINS": str(PLUGINS), "LLM_URL": f"scripted:{model}"}
    local = Settings(data_dir=data_dir, plugins=(PLUGINS,), llm_url=(f"scripted:{model}",))
    server = ServeProcess(data_dir, 0, "--role", "mcp", **settings)
    try:
        async with two_workers(environment(data_dir, **settings)) as workers:
            url = await asyncio.to_thread(server.wait_ready)
            async with open_runtime(local, concurrency=0) as runtime:
                yield Stage(url, data_dir, settings, runtime, workers)
    finally:
        await asyncio.to_thread(server.stop)


async def rows(runtime: Runtime, statement: str, **given: Any) -> list[Any]:
    async with runtime.engines.control.connect() as connection:
        return list((await connection.execute(text(statement), given)).all())


async def stored(scene: Scene) -> tuple[list[Event], int]:
    """Return the run's events as the table holds them, and in how many frames."""
    query = "select first_seq, last_seq, events from run_events where run = :run order by first_seq"
    frames = await rows(scene.runtime, query, run=scene.run)
    events = [
        {"seq": number, **event}
        for frame in frames
        for number, event in enumerate(json.loads(frame.events), frame.first_seq)
    ]
    assert all(last.last_seq + 1 == following.first_seq for last, following in pairwise(frames))
    return events, len(frames)


async def note_commits(scene: Scene, commits: dict[int, float]) -> None:
    """Note when each event was stored, until cancelled; merged frames do not tell any more."""
    query = (
        "select first_seq, last_seq, extract(epoch from at)::float8 as at from run_events "
        "where run = :run and last_seq > :after order by first_seq"
    )
    while True:
        for frame in await rows(scene.runtime, query, run=scene.run, after=len(commits)):
            for number in range(frame.first_seq, frame.last_seq + 1):
                commits.setdefault(number, frame.at)
        await asyncio.sleep(0.1)


async def holder(scene: Scene) -> int:
    """Return the pid of the worker that executes the run, once there is one."""
    query = (
        "select worker from run_leases l join runs r on r.lease = l.epoch "
        "where r.id = :run and r.last_seq > 40"
    )
    async with asyncio.timeout(20):
        while not (found := await rows(scene.runtime, query, run=scene.run)):
            await asyncio.sleep(0.02)
    return int(found[0].worker.rpartition("/")[2])


async def follow_all(everybody: list[Follower], topic: str, calm: int = 0) -> dict[int, float]:
    """Follow to the end, which comes when everybody has lost the connection twenty times.

    Before it the run may tell `calm` more events, while nobody is cut off. Returns when each event
    was stored.
    """
    scene = everybody[0].scene
    commits: dict[int, float] = {}
    noting = asyncio.create_task(note_commits(scene, commits))
    try:
        await asyncio.gather(*(follower.lose_connections() for follower in everybody))
        await asyncio.gather(*(follower.prepare() for follower in everybody))
        sessions = [asyncio.create_task(follower.session()) for follower in everybody]
        told = max(commits)
        async with asyncio.timeout(60):
            while everybody[-1].last < told + calm:
                await asyncio.sleep(0.02)
        await scene.call("kv_set", namespace="narrated", key=topic, value=True)
        async with asyncio.timeout(60):
            await asyncio.gather(*sessions)
    finally:
        noting.cancel()
        await asyncio.gather(noting, return_exceptions=True)
    return commits


@asynccontextmanager
async def crowd(scene: Scene, seed: int) -> AsyncIterator[list[Follower]]:
    everybody = [kind(scene, random.Random(seed + number)) for number, kind in enumerate(FOLLOWERS)]
    try:
        yield everybody
    finally:
        for follower in everybody:
            await follower.close()


async def begin(stage: Stage, http: aiohttp.ClientSession, tool: str, **arguments: Any) -> Scene:
    """Start a task."""
    run = await over_http(http, stage.url, None).start(tool, **arguments)
    return Scene(run, stage.url, stage.data_dir, stage.settings, stage.runtime, http)


async def all_agree(scene: Scene, everybody: list[Follower]) -> list[Event]:
    """Compare what everybody saw with the table, before and after the run's frames are merged."""
    before, frames = await stored(scene)
    assert [event["seq"] for event in before] == list(range(1, len(before) + 1))
    await scene.runtime.stores.sweep.compact()
    async with asyncio.timeout(20):
        while not (await rows(scene.runtime, COMPACTED, run=scene.run))[0].compacted:
            await asyncio.sleep(0.05)
    after, merged = await stored(scene)
    assert after == before
    assert merged <= frames
    assert merged < 5
    for follower in everybody:
        assert follower.disconnects == DISCONNECTS
        if isinstance(follower, TaskFollower):
            tells_the_same(follower, before)
        else:
            assert follower.events == before, type(follower).__name__
            await follower.again()  # a late one sees what those who were there saw
            assert follower.events == before, type(follower).__name__
    return before


def tells_the_same(follower: TaskFollower, events: list[Event]) -> None:
    """A task shows the state at some number that was the newest meanwhile, and never an older one again."""
    states = followers.shown_after(events)
    for before, after, shown in follower.polled:
        assert shown in states[before : after + 1], (before, after, shown)
    at = 0
    for shown in follower.told:
        assert shown in states[at:], (at, shown)
        at = states.index(shown, at)
    assert follower.told[-1] == states[-1]


def report(name: str, everybody: list[Follower], commits: dict[int, float]) -> None:
    """Print how long after its commit each event was seen by those who were connected then."""
    cuts = sum(follower.disconnects for follower in everybody)
    print(f"\n{name}: {everybody[-1].last} events, {cuts} disconnects")
    for follower in everybody:
        waits = sorted(follower.waits(commits))
        p50, p99 = (waits[int(len(waits) * share)] * 1000 for share in (0.5, 0.99))
        kind = type(follower).__name__
        print(f"  {kind:16} {len(waits):5} seen live, after {p50:4.0f} ms p50, {p99:4.0f} ms p99")


async def task_has_the_runs_result(scene: Scene, everybody: list[Follower]) -> None:
    """Compare what polling and the last notification brought with what `run_get` shows."""
    output = (await scene.call("run_get", run=scene.run))["output"]
    (task,) = (follower for follower in everybody if isinstance(follower, TaskFollower))
    polled, told = task.results
    assert polled == told
    shown = told["structuredContent"]
    if isinstance(output, str):  # an agent's
        assert shown["output"] == output == ANSWER
    else:
        assert shown == output["structured"]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


async def test_a_long_tool_is_seen_alike_by_all_who_follow_it(
    stage: Stage, http: aiohttp.ClientSession
) -> None:
    scene = await begin(stage, http, "narrate", topic="tool")
    async with crowd(scene, seed=1) as everybody:
        commits = await follow_all(everybody, "tool", calm=80)

        report("long tool", everybody, commits)
        events = await all_agree(scene, everybody)
    assert len(events) > 300
    assert not [event for event in events if event["type"] == "resumed"]
    await task_has_the_runs_result(scene, everybody)


async def test_an_agent_whose_worker_is_killed_is_seen_alike_by_all_who_follow_it(
    stage: Stage, http: aiohttp.ClientSession
) -> None:
    await stage.runtime.services.agents.save(
        OWNER, "pacer", instructions="", tools=["pace"], limits={"turns": 100, "tool_calls": 100}
    )
    scene = await begin(stage, http, "agent_run", agent="pacer", input="go")

    async def kill() -> None:
        os.kill(await holder(scene), signal.SIGKILL)

    async with crowd(scene, seed=2) as everybody:
        commits, _ = await asyncio.gather(follow_all(everybody, "agent"), kill())

        report("killed agent", everybody, commits)
        events = await all_agree(scene, everybody)
    assert len(events) > 200
    # Whoever follows over stdio has a worker too, and hands back what it took when it leaves.
    attempts = [event["attempt"] for event in events if event["type"] == "resumed"]
    assert attempts
    assert attempts == list(range(2, 2 + len(attempts)))
    await task_has_the_runs_result(scene, everybody)
