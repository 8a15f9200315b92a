"""Responses of the OpenAI face: kept whole for 30 days, read back, and followed back to where they began."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.policy import Verb
from mcp_server.services.model_ids import model_uri
from mcp_server.services.purging import EVERY_SECONDS, purging
from mcp_server.storage.sql.response_tables import responses

KEPT_DAYS = 30
"""How long OpenAI keeps a response: https://platform.openai.com/docs/guides/conversation-state."""
MOST_IN_A_CHAIN = 1000

_ID = re.compile(r"resp_[0-9a-zA-Z]{1,80}")
_SHOWN = 80

Item = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """What is kept of one response.

    `input` are the items of its own request; `response` is the object as it was answered; `hidden`
    holds, by item id, the fields that are shown only to who asks for them. `model` is the id asked for.
    """

    id: str
    model: str
    input: list[Item]
    response: dict[str, Any]
    hidden: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    previous: str | None = None
    conversation: str | None = None

    @property
    def items(self) -> list[Item]:
        """Input, then output with what is hidden of it."""
        output: list[Item] = self.response["output"]
        return [*self.input, *({**item, **self.hidden.get(item["id"], {})} for item in output)]


class ResponseService:
    """Reading and deleting are operations on `response://ID`.

    Storing is a part of running the model, and whoever may run that may also read and delete the
    responses that its own key made.
    """

    def __init__(self, operation: Operations, control: AsyncEngine) -> None:
        self._operation = operation
        self._control = control

    async def store(
        self, principal: Principal, stored: StoredResponse, *, key: str | None = None
    ) -> None:
        """Keep a response, in place of an earlier state of the same one. `key` may be a run's step.

        Raises:
            LeaseLost: the run is not the caller's any more.
        """
        values = {
            "input": stored.input,
            "response": stored.response,
            "hidden": stored.hidden,
            "item_ids": [item["id"] for item in (*stored.input, *stored.response["output"])],
        }
        first = {
            "id": stored.id,
            "tenant": principal.tenant,
            "subject": principal.subject,
            "key_id": principal.key_id,
            "model": stored.model,
            "previous": stored.previous,
            "conversation": stored.conversation,
            "created_at": func.now(),
            "expires_at": func.now() + text(f"interval '{KEPT_DAYS} days'"),
        }
        put = insert(responses).values(**first, **values)
        put = put.on_conflict_do_update(
            index_elements=["id"], set_=values, where=responses.c.tenant == principal.tenant
        )
        uri = model_uri(stored.model)
        async with (
            self._operation(principal, "run", uri, key=key) as op,
            self._control.begin() as tx,
        ):
            await op.hold(tx)
            await tx.execute(put)
            await op.journal(tx, uri=f"response://{stored.id}", verb="write")

    async def get(
        self, principal: Principal, response: str, *, verb: Verb = "read"
    ) -> StoredResponse:
        """Return one response; `verb` is what it is wanted for.

        Raises:
            NotFound: there is none in this tenant.
        """
        async with self._opening(principal, verb, response), self._control.connect() as tx:
            return _stored(await _load(tx, principal.tenant, response))

    async def delete(self, principal: Principal, response: str) -> None:
        """Delete one response; those that went on from it stay, but nothing can go on from them.

        Raises:
            NotFound: there is none in this tenant.
        """
        async with (
            self._opening(principal, "write", response) as op,
            self._control.begin() as tx,
        ):
            gone = delete(responses).where(
                responses.c.tenant == principal.tenant, responses.c.id == response
            )
            if not (await tx.execute(gone)).rowcount:
                raise _unknown(response)
            await op.journal(tx, uri=f"response://{response}", verb="delete")

    async def chain(self, principal: Principal, response: str) -> list[StoredResponse]:
        """Return a response after all that it goes on from, the first one first.

        Raises:
            NotFound: it, or one that it goes on from, is not there any more; or there are over 1,000.
        """
        if not _ID.fullmatch(response):
            raise _unknown(response)
        async with self._opening(principal, "read", response), self._control.connect() as tx:
            given = {"tenant": principal.tenant, "id": response, "most": MOST_IN_A_CHAIN}
            ids = [row.id for row in await tx.execute(_CHAIN, given)]
            where = responses.c.id.in_(ids), responses.c.tenant == principal.tenant
            found = {row.id: row for row in await tx.execute(select(responses).where(*where))}
        if not ids:
            raise _unknown(response)
        first = found[ids[-1]]
        if first.previous is not None:
            raise _unknown(first.previous)
        return [_stored(found[each]) for each in reversed(ids)]

    async def item(self, principal: Principal, item: str) -> Item:
        """Return an item of any response, by its id.

        Raises:
            NotFound: no response in this tenant that the caller may read has it.
        """
        holding = responses.c.item_ids.contains([item])
        query = select(responses.c.id).where(responses.c.tenant == principal.tenant, holding)
        async with self._control.connect() as tx:
            found = await tx.scalar(query.limit(1))
        missing = NotFound(f"Item with id '{item[:_SHOWN]}' not found.", param="input")
        if found is None:
            raise missing
        stored = await self.get(principal, found)
        for each in stored.items:
            if each["id"] == item:
                return each
        raise missing

    @asynccontextmanager
    async def _opening(
        self, principal: Principal, verb: Verb, response: str
    ) -> AsyncGenerator[Operation]:
        uri = f"response://{response[:_SHOWN]}"
        if not policy.allows(principal, verb, uri):
            async with self._control.connect() as tx:
                found = await _find(tx, principal.tenant, response)
            if found is not None and _made(found) == (principal.subject, principal.key_id):
                verb, uri = "run", model_uri(found.model)
        async with self._operation(principal, verb, uri) as op:
            yield op


async def _load(tx: AsyncConnection, tenant: str, response: str) -> Row[Any]:
    found = await _find(tx, tenant, response)
    if found is None:
        raise _unknown(response)
    return found


async def _find(tx: AsyncConnection, tenant: str, response: str) -> Row[Any] | None:
    if not _ID.fullmatch(response):
        return None
    where = responses.c.id == response, responses.c.tenant == tenant
    return (
        await tx.execute(
            select(responses).where(*where, responses.c.expires_at > func.clock_timestamp())
        )
    ).one_or_none()


def _made(row: Row[Any]) -> tuple[str, str | None]:
    return row.subject, row.key_id


def _stored(row: Row[Any]) -> StoredResponse:
    hidden: Mapping[str, dict[str, Any]] = row.hidden
    return StoredResponse(
        id=row.id,
        model=row.model,
        input=row.input,
        response=row.response,
        hidden=dict(hidden),
        previous=row.previous,
        conversation=row.conversation,
    )


def _unknown(response: str) -> NotFound:
    return NotFound(f"Response with id '{response[:_SHOWN]}' not found.", param="response_id")


# From a response back to the first one of its chain.
_CHAIN = text(
    """
    with recursive chain as (
        select id, previous, 1 as depth from responses
            where tenant = :tenant and id = :id and expires_at > clock_timestamp()
        union all
        select r.id, r.previous, chain.depth + 1 from chain join responses r
            on r.id = chain.previous and r.tenant = :tenant and r.expires_at > clock_timestamp()
            where chain.depth < :most
    )
    select id from chain order by depth
    """
)


@asynccontextmanager
async def open_responses(
    operation: Operations, control: AsyncEngine, every_seconds: float = EVERY_SECONDS
) -> AsyncGenerator[ResponseService]:
    """Yield the service, and delete expired responses while it is open."""
    async with purging(control, responses.name, every_seconds):
        yield ResponseService(operation, control)
