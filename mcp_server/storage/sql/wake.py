"""Wake-ups between processes: coalesced, without content, on a connection of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, TypeAlias, get_args

import asyncpg  # pyright: ignore[reportMissingTypeStubs]  its sources are the only word on types

from mcp_server.storage.sql.control import DISCONNECTED

logger = logging.getLogger(__name__)

Topic: TypeAlias = Literal["queue", "runs", "journal"]
"""What may have something new: the queue of runs, runs that are held or followed, the journal."""

TOPICS: tuple[Topic, ...] = get_args(Topic)
# NOTIFY in each transaction would cost most of the write rate: others hear of a topic this often.
COALESCE_SECONDS = 0.02
# A connection that died without a word is found out by asking.
PING_SECONDS = 10.0
ANSWER_SECONDS = 5.0
MOST_BACKOFF_SECONDS = 5.0
# A process that ends may have told nobody yet what it leaves to do.
FLUSH_SECONDS = 0.5


class Wake:
    """Tells this process and all others that a topic may have something new.

    A wake-up may be lost or come for nothing: who listens looks for itself, and looks again now
    and then when none came.
    """

    def __init__(self) -> None:
        self._waiting: dict[Topic, set[asyncio.Event]] = {topic: set() for topic in TOPICS}
        self._due: set[Topic] = set()
        self._asked = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()

    def send(self, topic: Topic) -> None:
        """Wake the listeners of a topic: those of this process at once, others within 20 ms.

        To be called after the commit of what is new. Never blocks and never fails.
        """
        self._wake(topic)
        self._due.add(topic)
        self._sent.clear()
        self._asked.set()

    async def flush(self) -> None:
        """Return when other processes were told of everything, or a moment later if they cannot be."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._sent.wait()
        except TimeoutError:
            return

    @contextmanager
    def listening(self, topic: Topic) -> Generator[asyncio.Event]:
        """Yield an event that is set on every wake-up; clear it, look, then wait for it."""
        event = asyncio.Event()
        self._waiting[topic].add(event)
        try:
            yield event
        finally:
            self._waiting[topic].discard(event)

    def _wake(self, topic: Topic) -> None:
        for event in self._waiting[topic]:
            event.set()

    async def keep(self, url: str) -> None:
        """Exchange wake-ups with other processes for ever, over one connection at a time."""
        failures = 0
        while True:
            try:
                connection = await _connect(url)
                try:
                    await self._listen(connection)
                    failures = 0
                    await self._serve(connection)
                finally:
                    connection.terminate()
            except DISCONNECTED as error:
                if failures == 0:
                    logger.warning("wake-ups wait for the control database (%s)", error)
                failures += 1
            await asyncio.sleep(min(0.1 * 2**failures, MOST_BACKOFF_SECONDS))

    async def _listen(self, connection: Any) -> None:
        """Hear of every topic, and wake everyone: who knows what was missed until now."""
        topics: dict[str, Topic] = {f"isthmus_{topic}": topic for topic in TOPICS}
        own = connection.get_server_pid()

        def heard(_: Any, pid: int, channel: str, __: str) -> None:
            if pid != own:  # our own listeners were woken when it was sent
                self._wake(topics[channel])

        def ended(_: Any) -> None:
            self._asked.set()

        for channel in topics:
            await connection.add_listener(channel, heard)
        connection.add_termination_listener(ended)
        for topic in TOPICS:
            self._wake(topic)

    async def _serve(self, connection: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._asked.wait()
            except TimeoutError:
                await connection.execute("select 1", timeout=ANSWER_SECONDS)
                continue
            self._asked.clear()
            due, self._due = self._due, set()
            try:
                statement = ";".join(f"notify isthmus_{topic}" for topic in sorted(due))
                await connection.execute(statement or "select 1", timeout=ANSWER_SECONDS)
            except DISCONNECTED:
                self._due |= due
                self._asked.set()
                raise
            if not self._due:
                self._sent.set()
            await asyncio.sleep(COALESCE_SECONDS)


@asynccontextmanager
async def open_wake(control_url: str) -> AsyncGenerator[Wake]:
    """Yield the wake-ups of one control database; a lost connection is made again, and wakes everyone."""
    wake = Wake()
    keeper = asyncio.create_task(wake.keep(control_url), name="wake")
    try:
        yield wake
    finally:
        await wake.flush()
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def _connect(url: str) -> Any:
    session = {"application_name": "isthmus wake"}
    return await asyncpg.connect(url, timeout=10, server_settings=session)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
