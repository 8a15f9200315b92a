"""The door of the routes of vector stores: what their services refuse, told in the names of OpenAI's parameters."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from mcp_server.doors import DeclaredRoute
from mcp_server.errors import AppError
from mcp_server.policy import Verb
from mcp_server.services.vector_stores import UnknownCursor
from openai_facade.endpoint import Handler, declare
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.wire.faults import invalid

Declare = Callable[[str, str, Verb, Handler], DeclaredRoute]
"""Path, method, verb and handler -> route."""

_PARAMS = {
    "store": "vector_store_id",
    "document": "file_id",
    "filter": "filters",
    "metadata": "attributes",
    "k": "max_num_results",
}


def declaring(facade: Facade) -> Declare:
    """Give what declares a route of vector stores; each request counts, also one that is refused."""

    def route(path: str, method: str, verb: Verb, handler: Handler) -> DeclaredRoute:
        async def counted(exchange: Exchange) -> None:
            await facade.count(exchange)
            with _renaming():
                await handler(exchange)

        return declare(facade, path, counted, methods=[method], verb=verb)

    return route


@contextmanager
def _renaming() -> Generator[None]:
    try:
        yield
    except UnknownCursor as error:
        param = error.param or "after"
        raise invalid(
            param, "no such item in this list. Use an id that the list answered."
        ) from error
    except AppError as error:
        if error.param is not None:
            error.param = _PARAMS.get(error.param, error.param)
        raise
