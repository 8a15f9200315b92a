"""Fixed paths are served at once, by the route that Starlette would have taken."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from mcp_server.auth.keys import KeyService
from mcp_server.doors import DeclaredRoute, Gate
from mcp_server.http_app import DirectRoutes


class Named:
    """An endpoint that is an application, and answers with its name and what was found in the path."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = f"{self.name} {scope['path_params']}"
        await PlainTextResponse(told)(scope, receive, send)


def route(path: str, name: str, *methods: str) -> DeclaredRoute:
    return DeclaredRoute(path, Named(name), methods=methods, verb="read", door="plain", public=True)


async def answer(app: Any, method: str, path: str, **more: Any) -> tuple[int, str]:
    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    told: list[dict[str, Any]] = []

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        told.append(message)

    await app(scope | more, receive, send)
    return told[0]["status"], told[1].get("body", b"").decode()


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT"])
@pytest.mark.parametrize("path", ["/a", "/a/", "/b", "/b/c", "/none", "/"])
async def test_each_request_is_answered_as_starlette_would(method: str, path: str) -> None:
    gate = Gate(KeyService(None), auth=False, max_body_bytes=100)  # pyright: ignore[reportArgumentType]  no key is asked for
    gate.bind(
        [
            route("/a", "one", "GET"),
            route("/a", "two", "POST"),
            route("/b/{id}", "any", "GET"),
            route("/b/c", "hidden", "GET", "POST"),
        ]
    )
    starlette = Starlette(routes=gate.routes)
    direct = DirectRoutes(gate.routes, starlette)
    assert await answer(direct, method, path) == await answer(starlette, method, path)


async def test_only_fixed_paths_of_applications_pass_starlette_by() -> None:
    async def function(request: object) -> PlainTextResponse:
        del request
        return PlainTextResponse("function")

    def of(scope: Scope) -> str:
        return "starlette" if "router" in scope else "direct"

    seen: list[str] = []

    class Seen(Named):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(of(scope))
            await super().__call__(scope, receive, send)

    gate = Gate(KeyService(None), auth=False, max_body_bytes=100)  # pyright: ignore[reportArgumentType]  no key is asked for
    declared = {"verb": "read", "door": "plain", "public": True}
    gate.bind(
        [
            DeclaredRoute("/fixed", Seen("x"), methods=["GET"], **declared),
            DeclaredRoute("/one/{id}", Seen("x"), methods=["GET"], **declared),
            DeclaredRoute("/function", function, methods=["GET"], **declared),
        ]
    )
    direct = DirectRoutes(gate.routes, Starlette(routes=gate.routes))
    for path in ("/fixed", "/one/1"):
        assert (await answer(direct, "GET", path))[0] == 200
    assert (await answer(direct, "GET", "/fixed", root_path="/below"))[0] == 200
    assert await answer(direct, "GET", "/function") == (200, "function")
    assert seen == ["direct", "starlette", "starlette"]
