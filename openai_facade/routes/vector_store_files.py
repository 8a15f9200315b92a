"""`/v1/vector_stores/ID/files` and `…/file_batches`: files that are read into a store in the background."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import orjson

from mcp_server.auth.principal import current_principal
from mcp_server.doors import DeclaredRoute
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.idempotency import idempotent
from openai_facade.vector_doors import declaring
from openai_facade.wire.pages import list_object, query_of
from openai_facade.wire.vector_files import (
    batch_object,
    content_object,
    file_object,
    files_of_batch,
    given_file,
    listing,
    new_attributes,
)

if TYPE_CHECKING:  # a process without data imports none of its engines
    from mcp_server.services.vector_stores.files import VectorFiles

NEEDS_DATA = True

_STORE = "/v1/vector_stores/{vector_store_id}"
_FILES = f"{_STORE}/files"
# The id of a document that came over MCP may hold slashes.
_FILE = f"{_FILES}/{{file_id:path}}"
_BATCHES = f"{_STORE}/file_batches"
_BATCH = f"{_BATCHES}/{{batch_id}}"


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource; that of the content stands before what would take it for an id."""
    route, resource = declaring(facade), _Resource(facade)
    return [
        route(_FILES, "POST", "write", idempotent(facade, resource.create)),
        route(_FILES, "GET", "read", resource.list),
        route(f"{_FILE}/content", "GET", "read", resource.content),
        route(_FILE, "GET", "read", resource.retrieve),
        route(_FILE, "POST", "write", resource.update),
        route(_FILE, "DELETE", "write", resource.delete),
        route(_BATCHES, "POST", "write", idempotent(facade, resource.create_batch)),
        route(_BATCH, "GET", "read", resource.retrieve_batch),
        route(f"{_BATCH}/cancel", "POST", "write", resource.cancel_batch),
        route(f"{_BATCH}/files", "GET", "read", resource.list_batch),
    ]


class _Resource:
    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    @property
    def _files(self) -> VectorFiles:
        return self._facade.data.vector_stores.files

    async def create(self, exchange: Exchange) -> None:
        given = given_file(await exchange.read_object())
        made = await self._files.add(current_principal(), _store(exchange), given)
        await _answer(exchange, file_object(made))

    async def list(self, exchange: Exchange) -> None:
        await self._list(exchange, None)

    async def retrieve(self, exchange: Exchange) -> None:
        found = await self._files.get(current_principal(), _store(exchange), _file(exchange))
        await _answer(exchange, file_object(found))

    async def content(self, exchange: Exchange) -> None:
        text = await self._files.text(current_principal(), _store(exchange), _file(exchange))
        await _answer(exchange, content_object(text))

    async def update(self, exchange: Exchange) -> None:
        attributes = new_attributes(await exchange.read_object())
        changed = await self._files.update(
            current_principal(), _store(exchange), _file(exchange), attributes
        )
        await _answer(exchange, file_object(changed))

    async def delete(self, exchange: Exchange) -> None:
        file = _file(exchange)
        await self._files.remove(current_principal(), _store(exchange), file)
        gone = {"id": file, "object": "vector_store.file.deleted", "deleted": True}
        await _answer(exchange, gone)

    async def create_batch(self, exchange: Exchange) -> None:
        given = files_of_batch(await exchange.read_object())
        made = await self._files.add_batch(current_principal(), _store(exchange), given)
        await _answer(exchange, batch_object(made))

    async def retrieve_batch(self, exchange: Exchange) -> None:
        found = await self._files.batch(current_principal(), _store(exchange), _batch(exchange))
        await _answer(exchange, batch_object(found))

    async def cancel_batch(self, exchange: Exchange) -> None:
        ended = await self._files.cancel(current_principal(), _store(exchange), _batch(exchange))
        await _answer(exchange, batch_object(ended))

    async def list_batch(self, exchange: Exchange) -> None:
        await self._list(exchange, _batch(exchange))

    async def _list(self, exchange: Exchange, batch: str | None) -> None:
        paging, status = listing(query_of(exchange.scope))
        page = await self._files.list(
            *(current_principal(), _store(exchange), paging), status=status, batch=batch
        )
        shown = [file_object(file) for file in page.items]
        await _answer(exchange, list_object(shown, page.has_more))


def _store(exchange: Exchange) -> str:
    return exchange.scope["path_params"]["vector_store_id"]


def _file(exchange: Exchange) -> str:
    return exchange.scope["path_params"]["file_id"]


def _batch(exchange: Exchange) -> str:
    return exchange.scope["path_params"]["batch_id"]


def _answer(exchange: Exchange, found: dict[str, Any]) -> Awaitable[None]:
    return exchange.answer(orjson.dumps(found))
