"""`/v1/vector_stores`: the same stores that the vector tools fill and search."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from mcp_server.auth.principal import current_principal
from mcp_server.doors import DeclaredRoute
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.idempotency import idempotent
from openai_facade.query_rewriting import rewritten
from openai_facade.vector_doors import declaring
from openai_facade.wire.pages import list_object, query_of
from openai_facade.wire.vector_files import files_of_store, paging
from openai_facade.wire.vector_search import checked_search, results_page
from openai_facade.wire.vector_stores import store_change, store_object, store_terms

if TYPE_CHECKING:  # a process without data imports none of its engines
    from mcp_server.services.vector_stores.service import VectorStoreService

NEEDS_DATA = True

_ALL = "/v1/vector_stores"
_ONE = f"{_ALL}/{{vector_store_id}}"


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""
    route, resource = declaring(facade), _Resource(facade)
    return [
        route(_ALL, "POST", "write", idempotent(facade, resource.create)),
        route(_ALL, "GET", "read", resource.list),
        route(_ONE, "GET", "read", resource.retrieve),
        route(_ONE, "POST", "write", resource.update),
        route(_ONE, "DELETE", "write", resource.delete),
        route(f"{_ONE}/search", "POST", "read", resource.search),
    ]


class _Resource:
    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    @property
    def _stores(self) -> VectorStoreService:
        return self._facade.data.vector_stores

    async def create(self, exchange: Exchange) -> None:
        body = await exchange.read_object()
        terms, files = store_terms(body), files_of_store(body)
        made = await self._stores.create(current_principal(), terms, files)
        await _answer(exchange, store_object(made))

    async def list(self, exchange: Exchange) -> None:
        page = await self._stores.list(current_principal(), paging(query_of(exchange.scope)))
        shown = [store_object(store) for store in page.items]
        await _answer(exchange, list_object(shown, page.has_more))

    async def retrieve(self, exchange: Exchange) -> None:
        found = await self._stores.get(current_principal(), _id(exchange))
        await _answer(exchange, store_object(found))

    async def update(self, exchange: Exchange) -> None:
        change = store_change(await exchange.read_object())
        changed = await self._stores.update(current_principal(), _id(exchange), change)
        await _answer(exchange, store_object(changed))

    async def delete(self, exchange: Exchange) -> None:
        gone = await self._stores.delete(current_principal(), _id(exchange))
        await _answer(exchange, {"id": gone, "object": "vector_store.deleted", "deleted": True})

    async def search(self, exchange: Exchange) -> None:
        asked = checked_search(await exchange.read_object())
        principal, store = current_principal(), _id(exchange)
        async with exchange.while_connected():
            if asked.rewrite:
                await self._stores.get(principal, store)  # before a model is asked
                queries = await rewritten(self._facade, principal, asked.queries)
                asked = replace(asked, queries=queries)
            found = await self._stores.search(
                *(principal, store, asked.queries),
                k=asked.most,
                filter=asked.filters,
                mode=asked.mode,
            )
            await _answer(exchange, results_page(asked, found))


def _id(exchange: Exchange) -> str:
    return exchange.scope["path_params"]["vector_store_id"]


def _answer(exchange: Exchange, found: dict[str, Any]) -> Awaitable[None]:
    return exchange.answer(orjson.dumps(found))
