"""Runs: agents at work, one record behind every door."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import journal, policy
from mcp_server.agents.work import ModelFor, read_conversation
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.policy import Verb
from mcp_server.runs.event_log import Followers
from mcp_server.runs.executor import CONCURRENCY, Executor, open_executor
from mcp_server.runs.record import ENDED, Event, Run, new_run_id
from mcp_server.runs.store import RunStore
from mcp_server.services.agent_work import AgentWork
from mcp_server.services.agents import agent_uri, load_agent
from mcp_server.services.grants import ScopesNow, ToolboxFor
from mcp_server.services.run_results import RunError, RunEvents, RunItem, RunResult, run_item

MAX_WAIT_SECONDS = 600.0
# Runs of other processes are looked at this often; those of this process wake their followers.
FOLLOW_SECONDS = 0.5
CANCEL_SECONDS = 5.0

_RUN_ID = re.compile(r"run_[0-9a-f]{32}")

__all__ = ["RunError", "RunEvents", "RunItem", "RunResult", "RunService", "open_runs"]

OnEvent = Callable[[Event], Awaitable[None]]


class RunService:
    """Starting is an operation on `agent://NAME`, everything else on `run://ID`.

    Whoever may run an agent may also watch and cancel the runs of it that its own key started.
    """

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        store: RunStore,
        executor: Executor,
        followers: Followers,
    ) -> None:
        self._operation = operation
        self._control = control
        self._store = store
        self._executor = executor
        self._followers = followers

    async def start(
        self,
        principal: Principal,
        agent: str,
        input: str | list[dict[str, Any]],  # noqa: A002  the contract's name
        *,
        options: Mapping[str, Any] | None = None,
    ) -> RunItem:
        """Start a run of an agent as it is defined now, and return at once.

        `input` is a text or a list of chat messages; `options` are further fields of a chat request
        (`temperature`, `response_format`, …) for each turn of the model.

        Raises:
            NotFound: there is no such agent. InvalidInput: the input does not fit.
            LimitExceeded: too many runs wait.
        """
        messages = read_conversation(input)
        async with self._operation(principal, "run", agent_uri(agent)):
            definition = await load_agent(self._control, principal.tenant, agent)
            self._executor.check_room(principal.tenant)
            run = Run(
                id=new_run_id(),
                tenant=principal.tenant,
                subject=principal.subject,
                key_id=principal.key_id,
                grant=principal.scopes,
                kind="agent",
                agent=agent,
                definition=definition,
                input={"messages": messages, "options": dict(options or {})},
            )
            return run_item(await self._executor.start(run), 1)

    async def get(self, principal: Principal, run: str) -> RunItem:
        """Return one run.

        Raises:
            NotFound: there is no such run in this tenant.
        """
        verb, uri = await self._reach(principal, "read", run)
        async with self._operation(principal, verb, uri):
            return await self._load(principal, run)

    async def cancel(self, principal: Principal, run: str) -> RunItem:
        """Cancel a run wherever it is executed, and return it; one that has ended stays as it is.

        Raises:
            NotFound: there is no such run in this tenant.
        """
        verb, uri = await self._reach(principal, "run", run)
        async with self._operation(principal, verb, uri):
            before = await self._load(principal, run)
            await self._store.request_cancel(principal.tenant, run)
            try:
                async with asyncio.timeout(CANCEL_SECONDS):
                    if not await self._executor.cancel(run):
                        await self._end_of(run, before["last_event"])
            except TimeoutError:  # its worker is dead or stuck: the request stands in the row
                pass
            return await self._load(principal, run)

    async def events(self, principal: Principal, run: str, after: int = 0) -> RunEvents:
        """Return stored events after number `after`, oldest first, each with its `seq`.

        Raises:
            NotFound: there is no such run in this tenant.
        """
        verb, uri = await self._reach(principal, "read", run)
        async with self._operation(principal, verb, uri):
            await self._load(principal, run)
            items, _ = await self._store.events(run, after)
        return RunEvents(items=items, next_after=items[-1]["seq"] if items else after)

    async def follow(
        self, principal: Principal, run: str, after: int = 0
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events after number `after` as they are stored, up to the run's end.

        Types: `status` {status, error}, `text` {text, field, turn}, `tool_started`, `tool_finished`,
        `turn_finished`, and before the last status `message` {message, finish_reason, usage,
        stopped}. Following changes nothing: who stops following does not stop the run.

        Raises:
            NotFound: there is no such run in this tenant.
        """
        verb, uri = await self._reach(principal, "read", run)
        async with self._operation(principal, verb, uri):
            await self._load(principal, run)
        async with aclosing(self._follow(run, after)) as events:
            async for event in events:
                yield event

    async def run(
        self,
        principal: Principal,
        agent: str,
        input: str | list[dict[str, Any]],  # noqa: A002  the contract's name
        *,
        wait_seconds: float,
        on_event: OnEvent | None = None,
    ) -> RunItem:
        """Start a run and wait up to `wait_seconds` for its end; the run goes on after that.

        Raises:
            InvalidInput: the wait is negative or over 600 seconds; and what `start` raises.
        """
        if not 0 <= wait_seconds <= MAX_WAIT_SECONDS:
            raise InvalidInput(
                f"wait_seconds: {wait_seconds} is not within 0-{MAX_WAIT_SECONDS:g}; "
                "run_get tells later what became of the run",
                param="wait_seconds",
            )
        started = await self.start(principal, agent, input)
        try:
            async with asyncio.timeout(wait_seconds):
                await self._end_of(started["run"], 0, on_event)
        except TimeoutError:
            pass
        return await self._load(principal, started["run"])

    async def _end_of(self, run: str, after: int, on_event: OnEvent | None = None) -> None:
        async with aclosing(self._follow(run, after)) as events:
            async for event in events:
                if on_event is not None:
                    await on_event(event)

    async def _follow(self, run: str, after: int) -> AsyncGenerator[dict[str, Any], None]:
        with self._followers.following(run) as news:
            while True:
                news.clear()
                items, status = await self._store.events(run, after)
                for event in items:
                    after = event["seq"]
                    yield event
                if items:
                    continue
                if status is None or status in ENDED:
                    return
                try:
                    async with asyncio.timeout(FOLLOW_SECONDS):
                        await news.wait()
                except TimeoutError:
                    continue

    async def _load(self, principal: Principal, run: str) -> RunItem:
        found = await self._store.load(principal.tenant, run) if _RUN_ID.fullmatch(run) else None
        if found is None:
            raise NotFound(f"run {run[:80]!r} does not exist", param="run")
        return run_item(*found)

    async def _reach(self, principal: Principal, verb: Verb, run: str) -> tuple[Verb, str]:
        """Return what policy is asked for: the run, or the agent if this key started the run."""
        uri = f"run://{run[:80]}"
        if policy.allows(principal, verb, uri) or not _RUN_ID.fullmatch(run):
            return verb, uri
        found = await self._store.load(principal.tenant, run)
        if found is None or found[0].agent is None:
            return verb, uri
        row = found[0]
        if (row.subject, row.key_id) != (principal.subject, principal.key_id):
            return verb, uri
        return "run", f"agent://{row.agent}"


@asynccontextmanager
async def open_runs(
    operation: Operations,
    control: AsyncEngine,
    *,
    model_for: ModelFor,
    toolbox_for: ToolboxFor,
    scopes_now: ScopesNow,
    concurrency: int = CONCURRENCY,
) -> AsyncGenerator[RunService]:
    """Yield the service with an executor in this process.

    Runs that dead processes left behind are failed first, and those of this process on the way out.
    """
    followers = Followers()
    store = RunStore(control, uuid4().hex, _record)
    work = AgentWork(model_for, toolbox_for, scopes_now)
    async with open_executor(store, work, followers, concurrency=concurrency) as executor:
        yield RunService(operation, control, store, executor, followers)


async def _record(
    connection: AsyncConnection, *, tenant: str, subject: str, run: str, status: str
) -> None:
    await journal.append(
        connection,
        tenant=tenant,
        subject=subject,
        verb=status,
        uri=f"run://{run}",
        version=None,
        prev_version=None,
        run=run,
        step=None,
        labels=[],
    )
