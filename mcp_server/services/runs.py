"""Runs: agents and tools at work, one record behind every door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

import anyio
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import Timeout, Unavailable
from mcp_server.operation import Operations
from mcp_server.runs.events import RunEvents as EventStore
from mcp_server.runs.fence import is_step
from mcp_server.runs.following import Following
from mcp_server.runs.idling import Idling
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.record import Event, Run
from mcp_server.services import names
from mcp_server.services.run_access import begun_by, listing, visible
from mcp_server.services.run_answer_check import AnswerCheck
from mcp_server.services.run_inputs import RunInputs
from mcp_server.services.run_pages import one_status, read_cursor, write_cursor
from mcp_server.services.run_results import (
    RunError,
    RunEvents,
    RunItem,
    RunPage,
    RunRecord,
    RunResult,
    RunSummary,
    run_item,
    run_summary,
)
from mcp_server.services.run_terms import RunTerms
from mcp_server.services.run_watch import OnEvent, RunWatch, check_wait
from mcp_server.services.turn_clock import TurnObserver
from mcp_server.storage.sql.wake import Wake

__all__ = [
    "RunError",
    "RunEvents",
    "RunItem",
    "RunPage",
    "RunRecord",
    "RunResult",
    "RunService",
    "RunSummary",
    "RunTerms",
]

# A worker needs a moment to end what it holds: many are ended in the time of one.
CANCELLED_AT_ONCE = 64


class RunService(RunInputs):
    """Starting is an operation on `agent://NAME` or `tool://NAME`, everything else on `run://ID`.

    Whoever may run an agent or a tool may also watch, answer and cancel the runs of it that its own key
    started. `ttl_of` gives for how many seconds a kind's ended runs are kept. `following` follows runs,
    and `idling` counts those that wait here for others.
    """

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        queue: RunQueue,
        events: EventStore,
        following: Following,
        wake: Wake,
        ttl_of: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        super().__init__(operation, control, queue, wake, ttl_of)
        self.following = following
        self.idling = Idling()
        # Told of each turn that an agent takes here.
        self.turn_observers: list[TurnObserver] = []
        self._watch = RunWatch(queue, events, following, wake)
        self._answers = AnswerCheck()

    async def run(
        self,
        principal: Principal,
        agent: str,
        input: str | list[dict[str, Any]],  # noqa: A002  the contract's name
        *,
        wait_seconds: float,
        variables: Mapping[str, str] | None = None,
        conversation: str | None = None,
        on_event: OnEvent | None = None,
        key: str | None = None,
    ) -> RunItem:
        """Start a run and wait up to `wait_seconds` for its end or its question; it goes on after that.

        Raises:
            InvalidInput: the wait is negative or over 600 seconds; and what `start` raises.
        """
        check_wait(wait_seconds)
        started = await self.start(
            principal, agent, input, variables=variables, conversation=conversation, key=key
        )
        with self._waiting(inside=is_step(key)):
            await self._watch.settle_within(
                wait_seconds, principal.tenant, started["run"], on_event
            )
        try:
            return run_item(await self._access.load(principal.tenant, started["run"]))
        except Unavailable:
            return started  # it has begun: told of a failure, the caller would begin another one

    async def wait(
        self,
        principal: Principal,
        run: str,
        after: int,
        *,
        wait_seconds: float,
        on_event: OnEvent | None = None,
    ) -> RunItem:
        """Wait up to `wait_seconds` for the end of a run, or for what it asks after event `after`.

        Raises:
            NotFound: there is no such run in this tenant. InvalidInput: the wait is negative or over 600 seconds.
        """
        check_wait(wait_seconds)
        async with self._access.opening(principal, "read", run):
            pass  # no operation stays open while it is waited for
        await self._watch.settle_within(wait_seconds, principal.tenant, run, on_event, after)
        return run_item(await self._access.load(principal.tenant, run))

    async def attend(
        self,
        principal: Principal,
        run: str,
        *,
        deadline: float | None,
        inside: bool = False,
        on_event: OnEvent | None = None,
    ) -> RunItem:
        """Wait for the end of a run that the caller has just started, or until it asks something.

        If the caller leaves or its deadline (event loop's time) passes, the run is cancelled. Not so
        `inside` another run: when that one is resumed, the key of its step finds this one again.

        Raises:
            Timeout: the deadline passed.
        """
        settled = inside
        try:
            with self._waiting(inside=inside):
                async with asyncio.timeout_at(deadline):
                    await self._watch.settle(principal.tenant, run, on_event)
            settled = True
        except TimeoutError as error:
            fate = "goes on" if inside else "is cancelled"
            raise Timeout(
                f"the deadline passed before the end of run {run}, which {fate}"
            ) from error
        finally:
            if not settled:
                with anyio.CancelScope(shield=True):
                    await self._cancel(await self._access.load(principal.tenant, run))
        return run_item(await self._access.load(principal.tenant, run))

    @contextmanager
    def _waiting(self, *, inside: bool) -> Generator[None]:
        if not inside:
            yield
            return
        with self.idling.waiting():
            self._wake.send("queue")
            yield

    async def get(self, principal: Principal, run: str) -> RunItem:
        """Return one run.

        Raises:
            NotFound: there is no such run in this tenant.
        """
        async with self._access.opening(principal, "read", run) as (_, found):
            return run_item(found)

    async def record(self, principal: Principal, run: str) -> RunRecord:
        """Return one run with its newest events, up to 1,000 or 1 MiB.

        Raises:
            NotFound: there is no such run in this tenant.
        """
        async with self._access.opening(principal, "read", run) as (_, found):
            newest = await self._watch.newest(found)
        first = newest[0]["seq"] if newest else found.last_seq + 1
        return RunRecord(**run_item(found), events=newest, first_event=first)

    async def list(
        self,
        principal: Principal,
        *,
        status: str | None = None,
        agent: str | None = None,
        kind: str | None = None,
        parent: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> RunPage:
        """Return a page of the runs that the caller may see, newest first, without their outputs.

        `kind` is `agent`, `tool` or `tool/NAME`; `parent` is the run that began them.

        Raises:
            InvalidInput: a filter, the limit or the cursor does not fit.
        """
        size = names.page_size(limit)
        wanted = None if status is None else one_status(status)
        for name, value in (("agent", agent), ("kind", kind), ("parent", parent)):
            if value is not None:
                names.key(value, name)
        async with self._operation(principal, *listing(principal)):
            rows = await self._queue.page(
                principal.tenant,
                status=wanted,
                kind=kind,
                agent=agent,
                where=[*visible(principal), *begun_by(parent)],
                limit=size + 1,
                cursor=read_cursor(cursor),
            )
        more = len(rows) > size
        return RunPage(
            items=[run_summary(row) for row in rows[:size]],
            next_cursor=write_cursor(rows[size - 1]) if more else None,
        )

    async def events(
        self,
        principal: Principal,
        run: str,
        after: int = 0,
        limit: int | None = None,
        wait_seconds: float = 0,
    ) -> RunEvents:
        """Return stored events after number `after`, oldest first, each with its `seq`.

        If there are none, wait up to `wait_seconds` (60 at most) until one comes or the run ends.

        Raises:
            NotFound: there is no such run in this tenant. InvalidInput: a number is out of its range.
        """
        size = names.page_size(limit)
        async with self._access.opening(principal, "read", run) as (_, found):
            return await self._watch.page(found, after, size, wait_seconds)

    async def cancel(self, principal: Principal, run: str) -> RunItem:
        """Cancel a run wherever it is, and the runs that it started; one that has ended stays as it is.

        Raises:
            NotFound: there is no such run in this tenant.
        """
        async with self._access.opening(principal, "run", run) as (_, found):
            await self._cancel(found)
            return run_item(await self._access.load(principal.tenant, run))

    async def follow(
        self, principal: Principal, run: str, after: int = 0
    ) -> AsyncGenerator[Event, None]:
        """Yield the events after number `after` as they are stored, up to the run's end.

        Types, beside those of a tool's own choice: `status` {status, error}, `progress` {done, total,
        message}, `input` {request, answer}, `retry`, `resumed`; of an agent `text` {text, field, turn},
        `tool_started`, `tool_finished`, `turn_finished`, `turn_incomplete` {turn} where that turn's text
        so far breaks off and it begins anew, and before the last status `message` {message,
        finish_reason, usage, stopped}. Following changes nothing: who stops following does not stop the
        run.

        Raises:
            NotFound: there is no such run in this tenant.
        """
        async with self._access.opening(principal, "read", run):
            pass  # no operation stays open while it is followed
        async with aclosing(self._watch.follow(run, after)) as events:
            async for event in events:
                yield event

    async def _cancel(self, run: Run) -> None:
        pending = [run]
        while pending:
            batch, pending = pending[:CANCELLED_AT_ONCE], pending[CANCELLED_AT_ONCE:]
            await asyncio.gather(*(self._watch.cancel(each) for each in batch))
            for each in batch:  # it starts no more of them now
                pending += await self._queue.children(each)
