"""The rows of conversations and of their items, read and written in the caller's transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import Conflict, InvalidInput, NotFound
from mcp_server.runs.record import LIVE
from mcp_server.storage.sql.conversation_tables import conversation_items as items
from mcp_server.storage.sql.conversation_tables import conversations
from mcp_server.storage.sql.run_tables import runs

MOST_ITEMS = 10_000
"""How many items a conversation takes in its whole life: a response reads all that are left of them."""

Item = dict[str, Any]

_ID = re.compile(r"conv_[0-9a-zA-Z]{1,80}")
_SHOWN = 80


class ConversationLocked(Conflict):
    """A response is being made from this conversation: only that one may add to it."""


class ItemExists(InvalidInput):
    """The conversation has an item of this id."""


class UnknownCursor(InvalidInput):
    """The page should begin behind an item that the conversation does not have."""


@dataclass(frozen=True, slots=True)
class Conversation:
    id: str
    metadata: dict[str, str]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ItemPage:
    items: list[Item]
    has_more: bool


def conversation_of(row: Row[Any]) -> Conversation:
    return Conversation(row.id, row.metadata, row.created_at)


async def load(
    tx: AsyncConnection, tenant: str, conversation: str, *, lock: bool = False
) -> Row[Any]:
    """Return the row of a conversation; `lock` keeps others from changing it until `tx` ends.

    Raises:
        NotFound: there is none in this tenant.
    """
    found = None
    if _ID.fullmatch(conversation):
        where = conversations.c.id == conversation, conversations.c.tenant == tenant
        query = select(conversations, _held.label("held")).where(*where)
        if lock:
            query = query.with_for_update()
        found = (await tx.execute(query)).one_or_none()
    if found is None:
        raise unknown(conversation)
    return found


async def append(
    tx: AsyncConnection, row: Row[Any], added: Sequence[Item], *, again: bool = False
) -> None:
    """Add items behind all others of a locked row; `again` leaves out those that are there.

    Raises:
        ItemExists: the conversation has an item of one of these ids.
        InvalidInput: it would have had too many items.
    """
    ids = [item["id"] for item in added]
    known = select(items.c.id).where(items.c.conversation == row.id, items.c.id.in_(ids))
    there = set(await tx.scalars(known))
    if there and not again:
        raise ItemExists(
            f"items: the conversation has an item {min(there)[:_SHOWN]!r}; leave its id out to add "
            "another one",
            param="items",
        )
    new = [item for item in added if item["id"] not in there]
    if row.next_place + len(new) > MOST_ITEMS:
        raise InvalidInput(
            f"conversation: it has had {row.next_place - 1} items, and takes {MOST_ITEMS} at most; "
            "begin a new one",
            param="conversation",
        )
    if not new:
        return
    values = [
        {"conversation": row.id, "place": place, "id": item["id"], "item": item}
        for place, item in enumerate(new, row.next_place)
    ]
    await tx.execute(insert(items), values)
    behind = update(conversations).where(conversations.c.id == row.id)
    await tx.execute(behind.values(next_place=row.next_place + len(new)))


async def history(tx: AsyncConnection, conversation: str) -> list[Item]:
    """Return all items, oldest first."""
    query = select(items.c.item).where(items.c.conversation == conversation)
    return list(await tx.scalars(query.order_by(items.c.place)))


async def page(
    tx: AsyncConnection, conversation: str, *, after: str | None, limit: int, newest_first: bool
) -> ItemPage:
    """Return up to `limit` items behind the item `after`.

    Raises:
        UnknownCursor: there is no item `after`.
    """
    query = select(items.c.item).where(items.c.conversation == conversation).limit(limit + 1)
    place = items.c.place
    if after is not None:
        at = select(place).where(items.c.conversation == conversation, items.c.id == after)
        start = await tx.scalar(at)
        if start is None:
            raise UnknownCursor(
                f"after: the conversation has no item {after[:_SHOWN]!r}", param="after"
            )
        query = query.where(place < start if newest_first else place > start)
    query = query.order_by(place.desc() if newest_first else place)
    found: list[Item] = list(await tx.scalars(query))
    return ItemPage(found[:limit], len(found) > limit)


async def item(tx: AsyncConnection, conversation: str, item_id: str) -> Item:
    """Return one item.

    Raises:
        NotFound: the conversation has none of this id.
    """
    where = items.c.conversation == conversation, items.c.id == item_id
    found = await tx.scalar(select(items.c.item).where(*where))
    if found is None:
        raise _unknown_item(item_id)
    return found


async def delete_item(tx: AsyncConnection, conversation: str, item_id: str) -> None:
    """Delete one item.

    Raises:
        NotFound: the conversation has none of this id.
    """
    where = items.c.conversation == conversation, items.c.id == item_id
    if not (await tx.execute(delete(items).where(*where))).rowcount:
        raise _unknown_item(item_id)


async def hold(
    tx: AsyncConnection, tenant: str, conversation: str, holder: str, seconds: float
) -> bool:
    """Let `holder` alone add items for some seconds more; False if another one may."""
    free = or_(~_held, conversations.c.held_by == holder)
    where = conversations.c.id == conversation, conversations.c.tenant == tenant, free
    until = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    held = update(conversations).where(*where).values(held_by=holder, held_until=until)
    return bool((await tx.execute(held)).rowcount)


async def renew(tx: AsyncConnection, conversation: str, holder: str, seconds: float) -> None:
    """Prolong a hold, unless it has been let go of."""
    until = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    where = conversations.c.id == conversation, conversations.c.held_by == holder
    await tx.execute(update(conversations).where(*where).values(held_until=until))


async def let_go(tx: AsyncConnection, conversation: str, holder: str) -> None:
    """End a hold, if it still is this holder's."""
    where = conversations.c.id == conversation, conversations.c.held_by == holder
    await tx.execute(update(conversations).where(*where).values(held_by=None, held_until=None))


async def check_free(tx: AsyncConnection, row: Row[Any], holder: str | None = None) -> None:
    """See that `holder` may add to a conversation, whose row is locked.

    Raises:
        ConversationLocked: a response or a run holds it.
    """
    if row.held and row.held_by != holder:
        raise locked(row.id)
    run = await first_run(tx, row)
    if run is not None:
        raise ConversationLocked(
            f"Run {run.id} goes on with the conversation {row.id[:_SHOWN]!r} and is {run.status}. "
            "Try again when it has ended.",
            param="conversation",
        )


async def first_run(tx: AsyncConnection, row: Row[Any]) -> Row[Any, Any] | None:
    """Return the id and status of the run that has its turn in a conversation, None if there is none.

    The row must be locked by a statement before: only then does this one see whoever locked it last.
    """
    live = runs.c.conversation == row.id, runs.c.status.in_(LIVE), runs.c.tenant == row.tenant
    first = select(runs.c.id, runs.c.status).where(*live).order_by(runs.c.turn).limit(1)
    return (await tx.execute(first)).first()


def locked(conversation: str) -> ConversationLocked:
    return ConversationLocked(
        f"Another response is being made from the conversation {conversation[:_SHOWN]!r}. Try again "
        "when it has ended.",
        param="conversation",
    )


def unknown(conversation: str) -> NotFound:
    return NotFound(
        f"Conversation with id '{conversation[:_SHOWN]}' not found.", param="conversation"
    )


def _unknown_item(item_id: str) -> NotFound:
    return NotFound(
        f"Item with id '{item_id[:_SHOWN]}' not found in this conversation.", param="item_id"
    )


_held = func.coalesce(conversations.c.held_until > func.clock_timestamp(), False)
