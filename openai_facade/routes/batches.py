"""`/v1/batches`: create, read, list and cancel; runs of kind `batch` do the rest."""

from __future__ import annotations

from functools import partial

import orjson

from mcp_server.auth.principal import Principal, current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.policy import Verb
from mcp_server.services.batches import BatchRecord, UnknownBatch
from openai_facade.endpoint import Handler, declare
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.idempotency import idempotent
from openai_facade.wire.batches import batch_object, batch_terms
from openai_facade.wire.faults import invalid, unsupported
from openai_facade.wire.pages import list_object, page_arguments, query_of, unknown_cursor

_ONE = "/v1/batches/{batch_id}"


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    def route(path: str, method: str, verb: Verb, handler: Handler) -> DeclaredRoute:
        async def counted(exchange: Exchange) -> None:
            await facade.count(exchange)
            await handler(exchange)

        return declare(facade, path, counted, methods=[method], verb=verb)

    resource = _Resource(facade)
    return [
        route("/v1/batches", "POST", "run", idempotent(facade, resource.create)),
        route("/v1/batches", "GET", "read", resource.list),
        route(_ONE, "GET", "read", resource.retrieve),
        route(f"{_ONE}/cancel", "POST", "run", resource.cancel),
    ]


class _Resource:
    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    async def create(self, exchange: Exchange) -> None:
        terms, principal = batch_terms(await exchange.read_object()), current_principal()
        check = partial(self._check_file, principal, terms.input_file)
        made = await self._facade.services.batches.create(principal, terms, check)
        await _answer(exchange, made)

    async def _check_file(self, principal: Principal, file_id: str) -> None:
        """Look at the input file; where there is no data, the batch's run does, and tells it in `errors`."""
        if self._facade.data_services is None:
            return
        found = await self._facade.data_services.files.get(principal, file_id)
        if found.purpose != "batch":
            raise invalid(
                "input_file_id", f"its purpose is '{found.purpose}'; upload it as 'batch'."
            )

    async def list(self, exchange: Exchange) -> None:
        page = page_arguments(query_of(exchange.scope))
        if page.before is not None:
            raise unsupported("before", "batches are listed behind 'after'.")
        if page.order != "desc":
            raise unsupported("order", "batches are listed from the newest on.")
        try:
            found = await self._facade.services.batches.list(
                current_principal(), after=page.after, limit=page.limit
            )
        except UnknownBatch as error:
            raise unknown_cursor("after", page.after or "") from error
        shown = list_object([batch_object(each) for each in found.items], found.has_more)
        await exchange.answer(orjson.dumps(shown))

    async def retrieve(self, exchange: Exchange) -> None:
        found = await self._facade.services.batches.get(current_principal(), _id(exchange))
        await _answer(exchange, found)

    async def cancel(self, exchange: Exchange) -> None:
        found = await self._facade.services.batches.cancel(current_principal(), _id(exchange))
        await _answer(exchange, found)


def _id(exchange: Exchange) -> str:
    return exchange.scope["path_params"]["batch_id"]


async def _answer(exchange: Exchange, batch: BatchRecord) -> None:
    await exchange.answer(orjson.dumps(batch_object(batch)))
