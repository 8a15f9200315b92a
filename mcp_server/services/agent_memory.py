"""What agents remember: conversations that their runs go on with, one run after the other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, LimitExceeded, NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.runs.record import LIVE, Run
from mcp_server.services import names
from mcp_server.services.agent_items import AgentItem
from mcp_server.services.agent_turns import Item, Message, items_of, messages_of
from mcp_server.services.conversations import conversation_uri, rows
from mcp_server.storage.sql.conversation_tables import conversations
from mcp_server.storage.sql.run_tables import runs

Join: TypeAlias = Callable[[AsyncConnection], Awaitable[None]]
"""Let a run take the next turn in its conversation, in the transaction that creates it."""

MOST_KEY = 200
# Of one conversation, the one that has its turn included.
MOST_ENQUEUED = 100
_CONVERSATION = re.compile(r"conv_[0-9a-zA-Z]{1,80}")


class AgentMemory:
    """Conversations as the runs of agents have them.

    A run holds its conversation by being alive: there is no hold that could outlive it. Its right is the
    starter's right to read and write `conversation://ID`.
    """

    def __init__(self, operation: Operations, control: AsyncEngine) -> None:
        self._operation = operation
        self._control = control

    def joining(
        self, op: Operation, run: Run, key: str | None, definition: AgentItem
    ) -> tuple[Run, Join | None]:
        """Return the run as one that goes on with a conversation, and what creating it begins with.

        `key` is a conversation's id, or a key of the agent's own if it has a memory; None is neither.

        Raises:
            InvalidInput: `key` is neither. Forbidden: the caller may not read and write the conversation.
        """
        if key is None:
            return run, None
        agent = definition["name"]
        found = _conversation_of(op.principal.tenant, agent, key)
        if found != key and definition["memory"] == "none":
            raise InvalidInput(
                f"conversation: agent {agent!r} keeps no memory; leave the key out, or save the agent "
                "with memory: conversation",
                param="conversation",
            )
        for verb in ("read", "write"):
            policy.require(op.principal, verb, conversation_uri(found))
        run = replace(run, conversation=found)
        return run, lambda tx: self._join(tx, op, run, key, definition["busy"])

    async def _join(
        self, tx: AsyncConnection, op: Operation, run: Run, key: str, busy: str
    ) -> None:
        """Let a run that `tx` is about to create take the next turn in its conversation.

        A conversation of the agent's own comes into being here; one that is named by its id is there.

        Raises:
            NotFound: there is no such conversation. ConversationLocked: it is busy, and the agent rejects that.
            LimitExceeded: too many runs wait for their turn. InvalidInput: it is full.
        """
        conversation = run.conversation or ""
        if conversation != key:
            await self._make(tx, op, run, key)
        row = await rows.load(tx, run.tenant, conversation, lock=True)
        if row.held:
            raise rows.locked(conversation)
        first = await rows.first_run(tx, row)
        if first is not None and busy == "reject":
            raise rows.ConversationLocked(
                f"conversation: run {first.id} goes on with {key!r} and is {first.status}; start this "
                "when it has ended, or save the agent with busy: enqueue",
                param="conversation",
            )
        if row.next_place + len(run.input["messages"]) >= rows.MOST_ITEMS:
            raise InvalidInput(
                f"conversation: {key!r} has had {row.next_place - 1} items, and takes "
                f"{rows.MOST_ITEMS} at most; delete it or begin a new one",
                param="conversation",
            )
        live = runs.c.tenant == run.tenant, runs.c.conversation == row.id, runs.c.status.in_(LIVE)
        waiting = await tx.scalar(select(func.count()).select_from(runs).where(*live)) or 0
        if waiting >= MOST_ENQUEUED:
            raise LimitExceeded(
                f"conversation: {waiting} runs wait for their turn in {key!r} already, the most allowed",
                retry_after=5,
            )

    async def recall(self, principal: Principal, conversation: str) -> list[Message]:
        """Return what was said, oldest first, as a model reads it; nothing if it was deleted.

        Of what is long, the newest; see `messages_of`.
        """
        async with (
            self._operation(principal, "read", conversation_uri(conversation)),
            self._control.connect() as tx,
        ):
            try:
                row = await rows.load(tx, principal.tenant, conversation)
            except NotFound:
                return []
            return messages_of(await rows.history(tx, row.id))

    async def remember(
        self,
        principal: Principal,
        run: Run,
        message: Mapping[str, Any],
        *,
        key: str,
    ) -> None:
        """Add a run's input and its answer, once for the key of the step; a deleted one stays so.

        Raises:
            LeaseLost: the run is another worker's now.
        """
        conversation = run.conversation or ""
        said: list[Item] | None = run.input.get("said")
        if said is None:
            said = items_of(run.id, [*run.input["messages"], message])
        else:
            said = [*said, *items_of(run.id, [message])]
        uri = conversation_uri(conversation)
        async with (
            self._operation(principal, "write", uri, key=key) as op,
            self._control.begin() as tx,
        ):
            if not await op.first(tx):
                return
            try:
                row = await rows.load(tx, principal.tenant, conversation, lock=True)
            except NotFound:
                return
            await rows.append(tx, row, said, again=True)
            await op.journal(tx)

    async def _make(self, tx: AsyncConnection, op: Operation, run: Run, key: str) -> None:
        values = {
            "id": run.conversation,
            "tenant": run.tenant,
            "subject": run.subject,
            "metadata": {"agent": run.agent or "", "key": key},
        }
        made = insert(conversations).values(**values).on_conflict_do_nothing()
        if await tx.scalar(made.returning(conversations.c.id)) is not None:
            uri = conversation_uri(run.conversation or "")
            await op.journal(tx, uri=uri, verb="write")


def _conversation_of(tenant: str, agent: str, key: str) -> str:
    """Return the id that a key of an agent always means; an id means itself.

    Raises:
        InvalidInput: it is no key.
    """
    if len(names.key(key, "conversation")) > MOST_KEY:
        raise InvalidInput(
            f"conversation: it is longer than the {MOST_KEY} characters allowed; shorten it",
            param="conversation",
        )
    if _CONVERSATION.fullmatch(key):
        return key
    named = f"{tenant}\0{agent}\0{key}"
    return f"conv_{hashlib.sha256(named.encode()).hexdigest()[:48]}"
