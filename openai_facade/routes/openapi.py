"""`/openapi.json`: what this server does of OpenAI's API, for people's tools; it needs no key."""

from __future__ import annotations

from functools import cache

import orjson
from starlette.requests import Request
from starlette.responses import Response

from mcp_server.doors import DeclaredRoute
from openai_facade.facade import Facade
from openai_facade.specification.document import openapi_document


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the route of this document; it tells nothing of this server's state or tenants."""
    del facade
    return [
        DeclaredRoute(
            "/openapi.json", _show, methods=["GET"], verb="read", door="plain", public=True
        )
    ]


async def _show(request: Request) -> Response:
    del request
    return Response(_document(), media_type="application/json")


@cache
def _document() -> bytes:
    return orjson.dumps(openapi_document())
