"""Chat completions that their clients asked to keep: listed, read, labelled and deleted."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Row, Select, and_, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.policy import Verb
from mcp_server.services.model_ids import model_uri
from mcp_server.storage.sql.chat_tables import stored_chats
from mcp_server.storage.sql.schema import encode_json

_ID = re.compile(r"chatcmpl-[0-9a-zA-Z]{1,80}")
_SHOWN = 80
_LISTED = policy.Listing("chat://")

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChat:
    """What is kept of one chat: `messages` as they were asked, `completion` as it was answered.

    `model` is the id that was asked for.
    """

    id: str
    model: str
    messages: Messages
    completion: dict[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatQuery:
    """Which chats, at most `limit` of them: with this model, with all these metadata, behind `after`."""

    limit: int
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


class ChatService:
    """Each method is one operation on `chat://ID`.

    Storing is a part of running the model, and whoever may run that may also read, label and delete
    the chats that its own key made.
    """

    def __init__(self, operation: Operations, control: AsyncEngine) -> None:
        self._operation = operation
        self._control = control

    async def store(self, principal: Principal, chat: StoredChat) -> None:
        """Keep a chat that was answered just now."""
        row = {
            "id": chat.id,
            "tenant": principal.tenant,
            "subject": principal.subject,
            "key_id": principal.key_id,
            "model": chat.model,
            "metadata": dict(chat.metadata),
            "pairs": _pairs(chat.metadata),
            "messages": chat.messages,
            "completion": chat.completion,
            "created_at": func.clock_timestamp(),
        }
        async with (
            self._operation(principal, "run", model_uri(chat.model)) as op,
            self._control.begin() as tx,
        ):
            await tx.execute(insert(stored_chats).values(**row))
            await op.journal(tx, uri=f"chat://{chat.id}", verb="write")

    async def get(self, principal: Principal, chat: str) -> StoredChat:
        """Return one chat.

        Raises:
            NotFound: there is none in this tenant.
        """
        async with self._opening(principal, "read", chat), self._control.connect() as tx:
            return _stored(await _load(tx, principal.tenant, chat))

    async def list(self, principal: Principal, query: ChatQuery) -> tuple[list[StoredChat], bool]:
        """Return a page of the chats that the caller may read, and whether there are more.

        Raises:
            NotFound: there is no chat `query.after`.
        """
        async with (
            self._operation(principal, "read", _LISTED),
            self._control.connect() as tx,
        ):
            position = None
            if query.after is not None:
                last = await _load(tx, principal.tenant, query.after)
                position = (last.created_at, last.id)
            rows = (await tx.execute(_page(principal, query, position))).all()
        return [_stored(row) for row in rows[: query.limit]], len(rows) > query.limit

    async def update(
        self, principal: Principal, chat: str, metadata: Mapping[str, str]
    ) -> StoredChat:
        """Put other metadata in the place of a chat's.

        Raises:
            NotFound: there is none in this tenant.
        """
        given = {"metadata": dict(metadata), "pairs": _pairs(metadata)}
        async with (
            self._opening(principal, "write", chat) as op,
            self._control.begin() as tx,
        ):
            changed = update(stored_chats).where(*_is(principal.tenant, chat)).values(**given)
            row = (await tx.execute(changed.returning(stored_chats))).one_or_none()
            if row is None:
                raise _unknown(chat)
            await op.journal(tx, uri=f"chat://{chat}", verb="write")
        return _stored(row)

    async def delete(self, principal: Principal, chat: str) -> None:
        """Delete one chat.

        Raises:
            NotFound: there is none in this tenant.
        """
        async with (
            self._opening(principal, "write", chat) as op,
            self._control.begin() as tx,
        ):
            gone = delete(stored_chats).where(*_is(principal.tenant, chat))
            if not (await tx.execute(gone)).rowcount:
                raise _unknown(chat)
            await op.journal(tx, uri=f"chat://{chat}", verb="delete")

    @asynccontextmanager
    async def _opening(
        self, principal: Principal, verb: Verb, chat: str
    ) -> AsyncGenerator[Operation]:
        if not _ID.fullmatch(chat):
            raise _unknown(chat)
        uri = f"chat://{chat}"
        if not policy.allows(principal, verb, uri):
            async with self._control.connect() as tx:
                found = (
                    await tx.execute(select(stored_chats).where(*_is(principal.tenant, chat)))
                ).one_or_none()
            mine = (principal.subject, principal.key_id)
            if found is not None and (found.subject, found.key_id) == mine:
                verb, uri = "run", model_uri(found.model)
        async with self._operation(principal, verb, uri) as op:
            yield op


def _page(
    principal: Principal, query: ChatQuery, position: tuple[datetime, str] | None
) -> Select[Any]:
    columns = stored_chats.c
    found = select(stored_chats).where(columns.tenant == principal.tenant)
    prefixes = policy.scope(principal, "read", "chat").within(_LISTED)
    if prefixes is not None:
        seen = [func.starts_with(columns.id, prefix) for prefix in prefixes]
        mine = and_(columns.subject == principal.subject, columns.key_id == principal.key_id)
        found = found.where(or_(mine, *seen))
    if query.model is not None:
        found = found.where(columns.model == query.model)
    if query.metadata:
        found = found.where(columns.pairs.contains(_pairs(query.metadata)))
    place = tuple_(columns.created_at, columns.id)
    if position is not None:
        found = found.where(place > position if query.order == "asc" else place < position)
    order = [columns.created_at, columns.id]
    ordered = order if query.order == "asc" else [column.desc() for column in order]
    return found.order_by(*ordered).limit(query.limit + 1)


def _is(tenant: str, chat: str) -> tuple[Any, Any]:
    return stored_chats.c.tenant == tenant, stored_chats.c.id == chat


async def _load(tx: AsyncConnection, tenant: str, chat: str) -> Row[Any]:
    found = None
    if _ID.fullmatch(chat):
        found = (await tx.execute(select(stored_chats).where(*_is(tenant, chat)))).one_or_none()
    if found is None:
        raise _unknown(chat)
    return found


def _stored(row: Row[Any]) -> StoredChat:
    return StoredChat(
        id=row.id,
        model=row.model,
        messages=row.messages,
        completion=row.completion,
        metadata=row.metadata,
    )


def _pairs(metadata: Mapping[str, str]) -> list[str]:
    return [encode_json(pair) for pair in metadata.items()]


def _unknown(chat: str) -> NotFound:
    return NotFound(f"No chat completion found with id '{chat[:_SHOWN]}'.", param="completion_id")
