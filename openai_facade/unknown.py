"""The answer to paths under /v1 that do not exist, and to methods that a path does not have."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.convertors import PathConvertor, register_url_convertor
from starlette.routing import Match

from mcp_server.doors import DeclaredRoute
from openai_facade.endpoint import Endpoint, Handler
from openai_facade.errors import MethodNotAllowedError, UnknownUrlError
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade


class _Anything(PathConvertor):
    # That of Starlette takes no line break, which an address may hold as %0A.
    regex = "(?s:.*)"


register_url_convertor("anything", _Anything())


def unknown_routes(known: Sequence[DeclaredRoute], facade: Facade) -> list[DeclaredRoute]:
    """Give the routes that catch what none of `known` serves, with any method and without a key."""
    handler = _refusing(known)
    return [
        DeclaredRoute(
            path,
            Endpoint(handler, facade),
            methods=(),  # none named: all
            verb="read",
            door="openai",
            public=True,
            recognises=True,
        )
        for path in ("/v1", "/v1/{path:anything}")
    ]


def _refusing(known: Sequence[DeclaredRoute]) -> Handler:
    async def refuse(exchange: Exchange) -> None:
        path, method = exchange.scope["path"], exchange.scope["method"]
        allowed = {
            name
            for route in known
            if route.matches(exchange.scope)[0] is Match.PARTIAL
            for name in route.methods or ()
        }
        if allowed:
            allow = ", ".join(sorted(allowed))
            raise MethodNotAllowedError(
                f"Not allowed to {method} on {path}; it takes {allow}.", allow=allow
            )
        raise UnknownUrlError(f"Invalid URL ({method} {path})")

    return refuse
