"""`/v1/chat/completions/…`: the chats that were created with `store`."""

from __future__ import annotations

import orjson

from mcp_server.auth.principal import current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.errors import NotFound
from mcp_server.policy import Verb
from mcp_server.services.stored_chats import ChatService
from openai_facade.endpoint import Handler, declare
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.wire.pages import list_object, page_arguments, query_of, unknown_cursor
from openai_facade.wire.stored_chats import (
    chat_object,
    chat_query,
    message_objects,
    new_metadata,
)

_ALL = "/v1/chat/completions"
_ONE = f"{_ALL}/{{chat}}"


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    def route(path: str, method: str, verb: Verb, handler: Handler) -> DeclaredRoute:
        async def counted(exchange: Exchange) -> None:
            await facade.count(exchange)
            await handler(exchange)

        return declare(facade, path, counted, methods=[method], verb=verb)

    resource = _Resource(facade)
    return [
        route(_ALL, "GET", "read", resource.list),
        route(_ONE, "GET", "read", resource.retrieve),
        route(_ONE, "POST", "write", resource.update),
        route(_ONE, "DELETE", "write", resource.delete),
        route(f"{_ONE}/messages", "GET", "read", resource.list_messages),
    ]


class _Resource:
    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    @property
    def _chats(self) -> ChatService:
        return self._facade.services.chats

    async def list(self, exchange: Exchange) -> None:
        query = chat_query(query_of(exchange.scope))
        try:
            found, more = await self._chats.list(current_principal(), query)
        except NotFound as error:
            raise unknown_cursor("after", query.after or "") from error
        listed = list_object([chat_object(chat) for chat in found], more)
        await exchange.answer(orjson.dumps(listed))

    async def retrieve(self, exchange: Exchange) -> None:
        chat = await self._chats.get(current_principal(), _id(exchange))
        await exchange.answer(orjson.dumps(chat_object(chat)))

    async def update(self, exchange: Exchange) -> None:
        metadata = new_metadata(await exchange.read_object())
        chat = await self._chats.update(current_principal(), _id(exchange), metadata)
        await exchange.answer(orjson.dumps(chat_object(chat)))

    async def delete(self, exchange: Exchange) -> None:
        chat = _id(exchange)
        await self._chats.delete(current_principal(), chat)
        gone = {"object": "chat.completion.deleted", "id": chat, "deleted": True}
        await exchange.answer(orjson.dumps(gone))

    async def list_messages(self, exchange: Exchange) -> None:
        page = page_arguments(query_of(exchange.scope), order="asc")
        chat = await self._chats.get(current_principal(), _id(exchange))
        messages = message_objects(chat)
        if page.order == "desc":
            messages.reverse()
        places = [message["id"] for message in messages]
        if page.after is not None and page.after not in places:
            raise unknown_cursor("after", page.after)
        begin = 0 if page.after is None else places.index(page.after) + 1
        end = begin + page.limit
        listed = list_object(messages[begin:end], len(messages) > end)
        await exchange.answer(orjson.dumps(listed))


def _id(exchange: Exchange) -> str:
    return exchange.scope["path_params"]["chat"]
