"""Followers of one run, each through another door, that lose their connection and go on from the last number seen."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from mcp_server.auth.principal import OWNER
from mcp_server.runtime import Runtime
from tests.doors import raw
from tests.doors.tasks_client import DECLARED, StdioProcess, headers, over_http, start_stdio
from tests.e2e.processes import LONG, environment

DISCONNECTS = 20
# A connection lives so long at most before it is cut.
LONGEST_SECONDS = 1.5 if LONG else 0.3
# To start a process for each of them takes half a minute.
RESTARTS = set(range(DISCONNECTS)) if LONG else {9}
WAIT_SECONDS = 20
ENDED = {"completed", "failed", "cancelled", "expired"}

Event = dict[str, Any]
Shown = tuple[str, str | None]
"""A task's status and its message."""


@dataclass(frozen=True)
class Scene:
    """One run and where it can be seen: an HTTP server, its data, and this very process."""

    run: str
    url: str
    data_dir: Path
    settings: dict[str, str]
    runtime: Runtime
    http: aiohttp.ClientSession

    @property
    def uri(self) -> str:
        return f"run://{self.run}"

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        reply = await raw.call(self.http, self.url, None, tool, arguments)
        assert not reply.result["isError"], reply.body[:500]
        return reply.result["structuredContent"]


class Follower:
    """Collects a run's events; a subclass says how one connection is made and followed."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self.scene, self.chance = scene, chance
        self.events: list[Event] = []
        # When each event was first seen, and since when the connection of then had been open.
        self.seen: dict[int, tuple[float, float]] = {}
        self.connected = 0.0
        self.disconnects = 0

    @property
    def last(self) -> int:
        return len(self.events)

    def take(self, events: list[Event]) -> None:
        """Keep what is new: nothing may be missing, and what is known must be told alike again."""
        now = time.time()
        for event in events:
            number, name = event["seq"], type(self).__name__
            if number <= self.last:
                assert self.events[number - 1] == event, name
                continue
            assert number == self.last + 1, f"{name}: {number} came after {self.last}"
            self.events.append(event)
            self.seen[number] = (self.connected, now)

    def waits(self, commits: dict[int, float]) -> list[float]:
        """Return after how many seconds events were seen that came while the connection was open."""
        return [
            seen - commits[number]
            for number, (connected, seen) in self.seen.items()
            if number in commits and connected < commits[number]
        ]

    async def session(self) -> None:
        """Connect, and follow until the end of the run."""
        raise NotImplementedError

    async def prepare(self) -> None:
        """Make ready what a connection needs."""

    async def leave(self) -> None:
        """Take leave of the server after a cut, where that takes more than closing a connection."""

    async def close(self) -> None:
        """Release what is left of the connections."""

    async def again(self) -> None:
        """Follow once more from the first event, without a cut."""
        self.events = []
        await self.prepare()
        await self.session()

    async def lose_connections(self) -> None:
        """Follow, and be cut off at random moments."""
        while self.disconnects < DISCONNECTS:
            await self.prepare()
            self.connected = math.inf
            session = asyncio.create_task(self.session())
            if self.chance.random() < 0.7:  # others are cut off before they are connected
                await self._is_connected(session)
            await asyncio.wait({session}, timeout=self.chance.uniform(0, LONGEST_SECONDS))
            session.cancel()
            try:
                await session
            except asyncio.CancelledError:
                self.disconnects += 1
                await self.leave()
                continue
            ended = await self.scene.call("run_get", run=self.scene.run)
            page = await self.scene.call("run_events", run=self.scene.run, limit=1000)
            telling = [event for event in page["items"] if event["type"] != "text"][-12:]
            raise AssertionError(f"the run ended too early: {ended['error']}; {telling}")

    async def _is_connected(self, session: asyncio.Task[None]) -> None:
        async with asyncio.timeout(30):
            while self.connected == math.inf and not session.done():
                await asyncio.sleep(0.01)


class EventsOverHttp(Follower):
    """`run_events`, waiting for the next one over and over."""

    async def session(self) -> None:
        self.connected = time.time()
        while True:
            page = await self.ask(run=self.scene.run, after=self.last, wait_seconds=WAIT_SECONDS)
            assert all(event["seq"] > self.last for event in page["items"])
            self.take(page["items"])
            assert page["next_after"] == self.last
            if page["status"] in ENDED and not page["items"]:
                return

    async def ask(self, **arguments: Any) -> dict[str, Any]:
        return await self.scene.call("run_events", **arguments)


class EventsOverStdio(EventsOverHttp):
    """The same in a process of its own; some disconnects end the process, others only the request."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        super().__init__(scene, chance)
        self._stack = AsyncExitStack()
        self._process: StdioProcess | None = None

    async def prepare(self) -> None:
        if self._process is None:
            settings = environment(self.scene.data_dir, **self.scene.settings)
            self._process = await self._stack.enter_async_context(start_stdio(settings))
            await self.ask(run=self.scene.run, limit=1)

    async def ask(self, **arguments: Any) -> dict[str, Any]:
        assert self._process is not None
        params = {"name": "run_events", "arguments": arguments}
        answer = await self._process.send("tools/call", params)
        assert not answer["result"]["isError"], answer
        return answer["result"]["structuredContent"]

    async def leave(self) -> None:
        assert self._process is not None
        if self.disconnects - 1 in RESTARTS:
            await self.close()
        else:
            self._process.notify("notifications/cancelled", {"requestId": self._process.last})

    async def close(self) -> None:
        self._process = None
        await self._stack.aclose()


class InProcess(Follower):
    """`RunService.follow` of a process that executes nothing."""

    async def session(self) -> None:
        self.connected = time.time()
        service = self.scene.runtime.services.runs
        async with aclosing(service.follow(OWNER, self.scene.run, self.last)) as events:
            async for event in events:
                assert event["seq"] > self.last
                self.take([event])


class Listener(Follower):
    """A subscriber of the 2026-07-28 era, that reads `run://ID` on each update."""

    async def session(self) -> None:
        wanted = {"notifications": {"resourceSubscriptions": [self.scene.uri]}}
        async with listening(self.scene, wanted, {}) as (stream, honored):
            assert honored["resourceSubscriptions"] == [self.scene.uri]
            self.connected = time.time()
            while await self.read() not in ENDED:
                assert uri_of(await stream.message(60)) == self.scene.uri

    async def read(self) -> str:
        """Take what `run://ID` shows, and what it does not show any more from `run_events`."""
        params = {"uri": self.scene.uri}
        reply = await raw.modern(self.scene.http, self.scene.url, None, "resources/read", params)
        return await self.take_record(reply)

    async def take_record(self, reply: raw.Reply) -> str:
        record = json.loads(reply.result["contents"][0]["text"])
        assert [event["seq"] for event in record["events"]][:1] in ([], [record["first_event"]])
        while self.last < record["first_event"] - 1:
            page = await self.scene.call("run_events", run=self.scene.run, after=self.last)
            self.take(page["items"])
        self.take(record["events"])
        return record["status"]


class Subscriber(Listener):
    """A subscriber of the handshake era; some disconnects end its session, others only its stream."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        super().__init__(scene, chance)
        self._session: raw.Handshake | None = None

    async def session(self) -> None:
        session = self._session
        if session is None:
            session = await raw.Handshake(self.scene.http, self.scene.url, None).open()
            subscribed = await session.request("resources/subscribe", {"uri": self.scene.uri})
            assert subscribed.result == {}
            self._session = session
        async with session.listening() as stream:
            self.connected = time.time()
            while await self.read() not in ENDED:
                assert uri_of(await stream.message(60)) == self.scene.uri

    async def read(self) -> str:
        assert self._session is not None
        reply = await self._session.request("resources/read", {"uri": self.scene.uri})
        return await self.take_record(reply)

    async def leave(self) -> None:
        if self._session is not None and self.chance.random() < 0.5:
            url, gone = f"{self.scene.url}/mcp", self._session.headers
            await raw.send(self.scene.http, "DELETE", url, headers=gone)
            self._session = None


class TaskFollower(Follower):
    """A client of the Tasks extension, that polls and hears notifications at once."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        super().__init__(scene, chance)
        self._client = over_http(scene.http, scene.url, None)
        # What was shown, between the number of the newest event before and after.
        self.polled: list[tuple[int, int, Shown]] = []
        self.told: list[Shown] = []
        self.results: list[Any] = []
        self.ended_at = 0.0

    def waits(self, commits: dict[int, float]) -> list[float]:
        """Of the run's end: a task shows other events only every now and then."""
        return [self.ended_at - commits[max(commits)]]

    async def session(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._poll())
            both.create_task(self._hear())

    async def _poll(self) -> None:
        before = await self._newest()
        while True:
            task = await self._client.get(self.scene.run)
            after = await self._newest()
            self.polled.append((before, after, shown_by(task)))
            before = after
            if task["status"] in ENDED:
                self.results.append(task["result"])
                return
            await asyncio.sleep(0.05)

    async def _hear(self) -> None:
        wanted = {"notifications": {"taskIds": [self.scene.run]}}
        async with listening(self.scene, wanted, DECLARED) as (stream, honored):
            assert honored["taskIds"] == [self.scene.run]
            self.connected = time.time()
            while True:
                message = await stream.message(60)
                assert message["method"] == "notifications/tasks"
                task = message["params"]
                self.told.append(shown_by(task))
                if task["status"] in ENDED:
                    self.ended_at = time.time()
                    self.results.append(task["result"])
                    return

    async def _newest(self) -> int:
        return (await self.scene.call("run_get", run=self.scene.run))["last_event"]


@asynccontextmanager
async def listening(
    scene: Scene, wanted: dict[str, Any], capabilities: dict[str, Any]
) -> AsyncGenerator[tuple[raw.EventStream, dict[str, Any]]]:
    """Open subscriptions/listen; yields its stream and what the server acknowledged."""
    method = "subscriptions/listen"
    params = wanted | {"_meta": {"io.modelcontextprotocol/clientCapabilities": capabilities}}
    async with scene.http.post(
        f"{scene.url}/mcp",
        json=raw.modern_request(method, params, "watch"),
        headers=headers(None, method, params),
    ) as answer:
        stream = raw.EventStream(answer)
        acknowledged = await stream.message()
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged", acknowledged
        yield stream, acknowledged["params"]["notifications"]


def uri_of(message: raw.Message) -> str:
    assert message["method"] == "notifications/resources/updated", message
    return message["params"]["uri"]


def shown_by(task: dict[str, Any]) -> Shown:
    return task["status"], task.get("statusMessage")


def shown_after(events: list[Event]) -> list[Shown]:
    """What a task shows when 0, 1, 2, … of the events have happened."""
    states: list[Shown] = [("working", None)]
    status, progress = "queued", None
    for event in events:
        if event["type"] == "status":
            status = event["status"]
        elif event["type"] == "progress":
            progress = f"{event['done']:g}: {event['message']}"
        working = status in {"queued", "running"}
        states.append(("working" if working else status, progress if status == "running" else None))
    return states
