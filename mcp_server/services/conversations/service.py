"""What may be done with conversations: made, read, added to, and held while a response is made from one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

from anyio import CancelScope
from sqlalchemy import delete, insert, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.conversations import rows
from mcp_server.services.conversations.rows import Conversation, Item, ItemPage, conversation_of
from mcp_server.storage.sql.conversation_tables import conversations

logger = logging.getLogger(__name__)

HELD_SECONDS = 60.0
"""How long a conversation stays held by a response whose process died."""
RENEW_SECONDS = 15.0

_SHOWN = 80


def conversation_uri(conversation: str) -> str:
    return f"conversation://{conversation[:_SHOWN]}"


class ConversationService:
    """Every method is one operation on `conversation://ID`; nothing of it is kept in a process."""

    def __init__(
        self, operation: Operations, control: AsyncEngine, *, held_seconds: float = HELD_SECONDS
    ) -> None:
        self._operation = operation
        self._control = control
        self._held_seconds = held_seconds

    async def create(
        self, principal: Principal, metadata: dict[str, str], items: Sequence[Item]
    ) -> Conversation:
        """Make a conversation of items; each has an id."""
        name = f"conv_{uuid4().hex}"
        values = {
            "id": name,
            "tenant": principal.tenant,
            "subject": principal.subject,
            "metadata": metadata,
        }
        async with (
            self._operation(principal, "write", conversation_uri(name)) as op,
            self._control.begin() as tx,
        ):
            await tx.execute(insert(conversations).values(**values))
            row = await rows.load(tx, principal.tenant, name, lock=True)
            await rows.append(tx, row, items)
            await op.journal(tx)
            return conversation_of(row)

    async def get(self, principal: Principal, conversation: str) -> Conversation:
        """Return a conversation.

        Raises:
            NotFound: there is none in this tenant.
        """
        async with (
            self._operation(principal, "read", conversation_uri(conversation)),
            self._control.connect() as tx,
        ):
            return conversation_of(await rows.load(tx, principal.tenant, conversation))

    async def update(
        self, principal: Principal, conversation: str, metadata: dict[str, str]
    ) -> Conversation:
        """Put other metadata in the place of all that there was.

        Raises:
            NotFound: there is no such conversation in this tenant.
        """
        async with (
            self._operation(principal, "write", conversation_uri(conversation)) as op,
            self._control.begin() as tx,
        ):
            row = await rows.load(tx, principal.tenant, conversation, lock=True)
            put = update(conversations).where(conversations.c.id == row.id)
            await tx.execute(put.values(metadata=metadata))
            await op.journal(tx)
            return Conversation(row.id, metadata, row.created_at)

    async def delete(self, principal: Principal, conversation: str) -> None:
        """Delete a conversation with its items; responses that were made from it stay.

        Raises:
            NotFound: there is none in this tenant.
        """
        async with (
            self._operation(principal, "write", conversation_uri(conversation)) as op,
            self._control.begin() as tx,
        ):
            row = await rows.load(tx, principal.tenant, conversation, lock=True)
            await tx.execute(delete(conversations).where(conversations.c.id == row.id))
            await op.journal(tx, verb="delete")

    async def add(self, principal: Principal, conversation: str, items: Sequence[Item]) -> None:
        """Add items behind all others; each has an id.

        Raises:
            NotFound: there is no such conversation in this tenant.
            ItemExists: it has an item of one of these ids.
            ConversationLocked: a response is being made from it.
        """
        async with (
            self._operation(principal, "write", conversation_uri(conversation)) as op,
            self._control.begin() as tx,
        ):
            row = await rows.load(tx, principal.tenant, conversation, lock=True)
            await rows.check_free(tx, row)
            await rows.append(tx, row, items)
            await op.journal(tx)

    async def page(
        self,
        principal: Principal,
        conversation: str,
        *,
        after: str | None,
        limit: int,
        newest_first: bool,
    ) -> ItemPage:
        """Return up to `limit` items behind the item `after`.

        Raises:
            NotFound: there is no such conversation in this tenant.
            UnknownCursor: it has no item `after`.
        """
        async with (
            self._operation(principal, "read", conversation_uri(conversation)),
            self._control.connect() as tx,
        ):
            row = await rows.load(tx, principal.tenant, conversation)
            return await rows.page(tx, row.id, after=after, limit=limit, newest_first=newest_first)

    async def item(self, principal: Principal, conversation: str, item: str) -> Item:
        """Return one item.

        Raises:
            NotFound: there is no such conversation in this tenant, or no such item in it.
        """
        async with (
            self._operation(principal, "read", conversation_uri(conversation)),
            self._control.connect() as tx,
        ):
            row = await rows.load(tx, principal.tenant, conversation)
            return await rows.item(tx, row.id, item)

    async def delete_item(self, principal: Principal, conversation: str, item: str) -> Conversation:
        """Delete one item, and return its conversation.

        Raises:
            NotFound: there is no such conversation in this tenant, or no such item in it.
            ConversationLocked: a response is being made from it.
        """
        async with (
            self._operation(principal, "write", conversation_uri(conversation)) as op,
            self._control.begin() as tx,
        ):
            row = await rows.load(tx, principal.tenant, conversation, lock=True)
            await rows.check_free(tx, row)
            await rows.delete_item(tx, row.id, item)
            await op.journal(tx)
            return conversation_of(row)

    async def history(self, principal: Principal, conversation: str, /) -> list[Item]:
        """Return all items, oldest first.

        Raises:
            NotFound: there is no such conversation in this tenant.
        """
        async with (
            self._operation(principal, "read", conversation_uri(conversation)),
            self._control.connect() as tx,
        ):
            row = await rows.load(tx, principal.tenant, conversation)
            return await rows.history(tx, row.id)

    async def remember(
        self,
        principal: Principal,
        conversation: str,
        items: Sequence[Item],
        /,
        *,
        holder: str | None = None,
        key: str | None = None,
    ) -> None:
        """Add the items of a response in one transaction; those that are there are not added again.

        `holder` is who holds the conversation, see `holding`; it lets go of it with that, so that who
        reads the answer may go on at once. `key` may be a run's step: then only who still has the run adds.

        Raises:
            LeaseLost: the run is not the caller's any more.
            NotFound: there is no such conversation in this tenant (any more).
            ConversationLocked: a response other than `holder` is being made from it.
        """
        async with (
            self._operation(principal, "write", conversation_uri(conversation), key=key) as op,
            self._control.begin() as tx,
        ):
            await op.hold(tx)
            row = await rows.load(tx, principal.tenant, conversation, lock=True)
            await rows.check_free(tx, row, holder)
            await rows.append(tx, row, items, again=True)
            if holder is not None:
                await rows.let_go(tx, row.id, holder)
            await op.journal(tx)

    @asynccontextmanager
    async def holding(
        self, principal: Principal, conversation: str, holder: str, /
    ) -> AsyncGenerator[None]:
        """Keep everyone but `holder` (the id of a response) from adding items while the context is open.

        Who comes second is refused and does not wait: a client that repeats the request then reads
        what the first one added. A hold whose process died ends after a minute; the same holder
        may take it over at once.

        Raises:
            NotFound: there is no such conversation in this tenant.
            ConversationLocked: another response is being made from it.
        """
        async with self._operation(principal, "write", conversation_uri(conversation)):
            await self._hold(principal, conversation, holder)
        renewer = asyncio.create_task(self._renew(conversation, holder), name="conversation-hold")
        try:
            yield
        finally:
            renewer.cancel()
            with CancelScope(shield=True):
                await asyncio.gather(renewer, return_exceptions=True)
                await self._let_go(conversation, holder)

    async def _hold(self, principal: Principal, conversation: str, holder: str) -> None:
        async with self._control.begin() as tx:
            row = await rows.load(tx, principal.tenant, conversation, lock=True)
            await rows.check_free(tx, row, holder)
            if not await rows.hold(tx, principal.tenant, row.id, holder, self._held_seconds):
                raise rows.locked(conversation)

    async def _renew(self, conversation: str, holder: str) -> None:
        while True:
            await asyncio.sleep(min(RENEW_SECONDS, self._held_seconds / 4))
            try:
                async with self._control.begin() as tx:
                    await rows.renew(tx, conversation, holder, self._held_seconds)
            except (SQLAlchemyError, OSError) as error:
                logger.warning("conversations: a hold is not renewed yet (%s)", error)

    async def _let_go(self, conversation: str, holder: str) -> None:
        try:
            async with self._control.begin() as tx:
                await rows.let_go(tx, conversation, holder)
        except (SQLAlchemyError, OSError) as error:  # it ends by itself
            logger.warning("conversations: a hold ends a minute later (%s)", error)
