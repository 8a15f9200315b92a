"""`/v1/conversations` and the items in them."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from typing import Any

import orjson

from mcp_server.auth.principal import current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.policy import Verb
from mcp_server.services.conversations import ConversationLocked, ConversationService
from openai_facade.endpoint import Handler, declare
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.idempotency import idempotent
from openai_facade.translate.response_items import kept_items, shown_item
from openai_facade.wire import conversations as wire
from openai_facade.wire.fields import one_of
from openai_facade.wire.pages import include_of, list_object, page_arguments, query_of
from openai_facade.wire.responses import INCLUDABLE

_ONE = "/v1/conversations/{conversation}"
_ITEMS = f"{_ONE}/items"
_ITEM = f"{_ITEMS}/{{item}}"


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    def route(path: str, method: str, verb: Verb, handler: Handler) -> DeclaredRoute:
        async def counted(exchange: Exchange) -> None:
            await facade.count(exchange)
            with refusing_locked():
                await handler(exchange)

        return declare(facade, path, counted, methods=[method], verb=verb)

    resource = _Resource(facade)
    return [
        route("/v1/conversations", "POST", "write", idempotent(facade, resource.create)),
        route(_ONE, "GET", "read", resource.retrieve),
        route(_ONE, "POST", "write", resource.update),
        route(_ONE, "DELETE", "write", resource.delete),
        route(_ITEMS, "GET", "read", resource.list_items),
        route(_ITEMS, "POST", "write", idempotent(facade, resource.add_items)),
        route(_ITEM, "GET", "read", resource.retrieve_item),
        route(_ITEM, "DELETE", "write", resource.delete_item),
    ]


@contextmanager
def refusing_locked() -> Generator[None]:
    """Answer what a response in progress forbids in OpenAI's words."""
    try:
        yield
    except ConversationLocked as error:
        raise wire.locked(error.message) from error


class _Resource:
    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    @property
    def _service(self) -> ConversationService:
        return self._facade.services.conversations

    async def create(self, exchange: Exchange) -> None:
        body = await exchange.read_object()
        metadata = wire.checked_metadata(body)
        items = kept_items(wire.checked_items(body))
        made = await self._service.create(current_principal(), metadata, items)
        await _answer(exchange, wire.conversation_object(made))

    async def retrieve(self, exchange: Exchange) -> None:
        found = await self._service.get(current_principal(), _name(exchange))
        await _answer(exchange, wire.conversation_object(found))

    async def update(self, exchange: Exchange) -> None:
        metadata = wire.checked_metadata(await exchange.read_object(), required=True)
        updated = await self._service.update(current_principal(), _name(exchange), metadata)
        await _answer(exchange, wire.conversation_object(updated))

    async def delete(self, exchange: Exchange) -> None:
        await self._service.delete(current_principal(), _name(exchange))
        await _answer(exchange, wire.deleted_object(_name(exchange)))

    async def list_items(self, exchange: Exchange) -> None:
        query = query_of(exchange.scope)
        include = _include(exchange)
        page = page_arguments(query)
        found = await self._service.page(
            current_principal(),
            _name(exchange),
            after=page.after,
            limit=page.limit,
            newest_first=page.order == "desc",
        )
        shown = [shown_item(item, include) for item in found.items]
        await _answer(exchange, list_object(shown, found.has_more))

    async def add_items(self, exchange: Exchange) -> None:
        body, include = await exchange.read_object(), _include(exchange)
        items = kept_items(wire.checked_items(body, required=True))
        await self._service.add(current_principal(), _name(exchange), items)
        shown = [shown_item(item, include) for item in items]
        await _answer(exchange, list_object(shown, has_more=False))

    async def retrieve_item(self, exchange: Exchange) -> None:
        include = _include(exchange)
        item_id = exchange.scope["path_params"]["item"]
        found = await self._service.item(current_principal(), _name(exchange), item_id)
        await _answer(exchange, shown_item(found, include))

    async def delete_item(self, exchange: Exchange) -> None:
        item_id = exchange.scope["path_params"]["item"]
        left = await self._service.delete_item(current_principal(), _name(exchange), item_id)
        await _answer(exchange, wire.conversation_object(left))


def _name(exchange: Exchange) -> str:
    return exchange.scope["path_params"]["conversation"]


def _include(exchange: Exchange) -> list[str]:
    include = include_of(query_of(exchange.scope))
    for name in include:
        one_of(INCLUDABLE)("include", name)
    return include


def _answer(exchange: Exchange, found: dict[str, Any]) -> Awaitable[None]:
    return exchange.answer(orjson.dumps(found))
