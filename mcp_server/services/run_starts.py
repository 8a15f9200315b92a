"""Starting runs: the right to it, the terms, and one run for one key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import Unpack

from mcp_server import policy
from mcp_server.agents.work import read_conversation
from mcp_server.auth.principal import Principal
from mcp_server.operation import Operation, Operations
from mcp_server.policy import Verb
from mcp_server.runs.fence import parse_key
from mcp_server.runs.places import below_call, below_caller
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.record import Run, new_run_id
from mcp_server.services.agent_bounds import with_approvals
from mcp_server.services.agent_items import AgentItem
from mcp_server.services.agent_memory import AgentMemory, Join
from mcp_server.services.agent_rows import agent_uri, find_agent, load_agent, refuse_paused
from mcp_server.services.agent_starts import begin_with
from mcp_server.services.run_access import RunAccess
from mcp_server.services.run_results import (
    BATCH_KIND,
    INGESTION_KIND,
    RESPONSE_KIND,
    TOOL_KIND,
    RunItem,
    run_item,
)
from mcp_server.services.run_terms import Admission, RunTerms, columns
from mcp_server.storage.sql.wake import Wake

# An agent that asks one that asks another one, and so on.
MOST_AGENTS_DEEP = 5
# What a file needs - an engine, a model - may be away for some minutes.
_INGESTION_RETRIES = 8


class RunStarts:
    """Starting is an operation on `agent://NAME` or `tool://NAME`."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        queue: RunQueue,
        wake: Wake,
        ttl_of: Callable[[str], float | None],
    ) -> None:
        self._operation = operation
        self._control = control
        self._queue = queue
        self._wake = wake
        self._ttl_of = ttl_of
        self._access = RunAccess(operation, queue)
        self._admission = Admission(control)
        self.memory = AgentMemory(operation, control)

    async def start(
        self,
        principal: Principal,
        agent: str,
        input: str | list[dict[str, Any]],  # noqa: A002  the contract's name
        *,
        options: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        conversation: str | None = None,
        said: Sequence[Mapping[str, Any]] | None = None,
        key: str | None = None,
        **terms: Unpack[RunTerms],
    ) -> RunItem:
        """Start a run of an agent as it is defined now, and return at once.

        `input` is a text or a list of chat messages; `options` are further fields of a chat request
        (`temperature`, `response_format`, …) for each turn of the model; `variables` fill the agent's
        instructions. `conversation` is the id of one, or a key of the agent's own, that the run goes on
        with; `said` are the items that its input adds there, if they are more than its messages.
        `key` is an idempotency key.

        Raises:
            NotFound: there is no such agent, or conversation of this id.
            Conflict: the agent is paused, or the conversation busy.
            InvalidInput: the input, a variable or a term does not fit. LimitExceeded: too many runs wait.
        """
        messages = read_conversation(input)
        async with self._operation(principal, "run", agent_uri(agent), key=key) as op:
            definition = await load_agent(self._control, principal.tenant, agent)
            refuse_paused(definition)
            if op.lease is not None:
                async with self._control.connect() as tx:
                    definition = await with_approvals(tx, op, definition)
            begun = begin_with(definition, messages, options, variables, said)
            run = await self._new_run(op, terms, kind="agent", agent=agent, **begun)
            run, join = self.memory.joining(op, run, conversation, definition)
            return run_item(await self._create(op, run, join))

    async def runnable(self, principal: Principal, agent: str) -> AgentItem | None:
        """Return the definition of an agent, None if it is not there or the caller must not run it."""
        if not policy.allows(principal, "run", agent_uri(agent)):
            return None
        async with self._control.connect() as tx:
            return await find_agent(tx, principal.tenant, agent)

    async def start_child(
        self,
        principal: Principal,
        agent: str,
        input: str,  # noqa: A002  the contract's name
        variables: Mapping[str, str],
        *,
        key: str,
    ) -> RunItem:
        """Start a run of a sub-agent for the step `key` of a run, and return at once; its key does so once.

        Raises:
            LimitExceeded: too many agents have asked one another; and what `start` raises.
        """
        step = parse_key(key)
        if step is not None:
            await self._admission.check_nested(principal.tenant, step.run, MOST_AGENTS_DEEP)
        return await self.start(principal, agent, input, variables=variables, key=key)

    async def start_tool(
        self,
        principal: Principal,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        verb: Verb = "run",
        egress: bool = False,
        metered: bool = False,
        key: str | None = None,
        check: Callable[[], None] = lambda: None,
        **terms: Unpack[RunTerms],
    ) -> RunItem:
        """Start a run of a tool and return at once.

        `verb` and `egress` are those of the tool's declaration; `check` refuses arguments that do not fit.

        Raises:
            InvalidInput: a term does not fit. LimitExceeded: too many runs wait.
        """
        uri = f"tool://{tool}"
        async with self._operation(
            principal, verb, uri, key=key, egress=egress, metered=metered
        ) as op:
            check()
            run = await self._new_run(
                op,
                terms,
                kind=f"{TOOL_KIND}{tool}",
                definition={"verb": verb},
                input={"arguments": dict(arguments)},
            )
            return run_item(await self._create(op, run))

    async def start_response(
        self, principal: Principal, uri: str, run: str, given: Mapping[str, Any]
    ) -> RunItem:
        """Start the run `run` that makes a response with the model (or agent) `uri`, and return at once.

        Raises:
            LimitExceeded: too many runs wait.
        """
        async with self._operation(principal, "run", uri) as op:
            made = await self._new_run(
                op, {}, kind=RESPONSE_KIND, definition={"uri": uri}, input=dict(given)
            )
            return run_item(await self._create(op, replace(made, id=run)))

    async def new_ingestion(self, op: Operation, given: Mapping[str, Any]) -> Run:
        """Return a run that reads files into the vector store of an operation, not started yet.

        Raises:
            LimitExceeded: too many runs wait.
        """
        await self._admission.check(op.principal.tenant)
        terms = RunTerms(retries=_INGESTION_RETRIES)
        definition = {"verb": op.verb, "uri": op.uri}
        return await self._new_run(
            op, terms, kind=INGESTION_KIND, definition=definition, input=dict(given)
        )

    async def new_batch(self, op: Operation, given: Mapping[str, Any]) -> Run:
        """Return a run that answers the requests of the batch of an operation, not started yet.

        Raises:
            LimitExceeded: too many runs wait.
        """
        await self._admission.check(op.principal.tenant)
        terms = RunTerms(retries=_INGESTION_RETRIES)
        definition = {"verb": op.verb, "uri": op.uri}
        return await self._new_run(
            op, terms, kind=BATCH_KIND, definition=definition, input=dict(given)
        )

    async def start_within(self, tx: AsyncConnection, run: Run) -> None:
        """Start a run when `tx` commits; `announce` it then."""
        await self._queue.create(run, tx)

    def announce(self) -> None:
        """Tell workers, here and elsewhere, that something waits for them."""
        for topic in ("queue", "runs", "journal"):
            self._wake.send(topic)

    async def _create(self, op: Operation, run: Run, join: Join | None = None) -> Run:
        """Store a run, `join` first; nothing is done if the operation's key has started one already."""
        await self._admission.check(run.tenant)
        if op.key is None and join is None:
            created, _ = await self._queue.create(run)
        else:
            async with self._control.begin() as tx:
                known = await op.replay(tx)
                if known is not None:
                    return await self._access.load(run.tenant, known["run"])
                if join is not None:
                    await join(tx)
                created, _ = await self._queue.create(run, tx)
                await op.remember(tx, {"run": created.id})
        self.announce()
        return created

    async def _new_run(self, op: Operation, terms: RunTerms, *, kind: str, **fields: Any) -> Run:
        priority, traceparent = terms.get("priority", 0), below_caller()
        if op.lease is not None:
            await self._admission.check_nested(op.principal.tenant, op.lease.run)
            terms = {**terms, "origin": f"run://{op.lease.run}"}
            # Whoever waits for it began already: it goes before what has not.
            parent = await self._access.find(op.principal.tenant, op.lease.run)
            if parent is not None:
                traceparent = below_call(parent, op.key or "")
            priority = max(priority, (parent.priority if parent else 0) + 1)
        if terms.get("ttl_seconds") is None:
            terms = {**terms, "ttl_seconds": self._ttl_of(kind)}
        principal = op.principal
        return Run(
            id=new_run_id(),
            tenant=principal.tenant,
            subject=principal.subject,
            key_id=principal.key_id,
            grant=principal.scopes,
            kind=kind,
            traceparent=traceparent,
            **columns(principal, op.uri, terms) | {"priority": priority},
            **fields,
        )
