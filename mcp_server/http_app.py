"""What every HTTP application of ours is made of: its gate, its guards and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_server import health
from mcp_server.auth.keys import KeyService
from mcp_server.auth.passes import Passes
from mcp_server.control_engines import ControlEngines
from mcp_server.door_errors import render_unknown_path
from mcp_server.doors import DeclaredRoute, Gate
from mcp_server.operation import Operations
from mcp_server.runs.stores import Stores
from mcp_server.secret import pass_secret
from mcp_server.services import ControlServices
from mcp_server.settings import Settings
from mcp_server.transports.host_guard import HostGuard


@dataclass(frozen=True, slots=True)
class HttpApp:
    """The application, and what its server needs to end it well."""

    app: ASGIApp
    gate: Gate
    close_listeners: Callable[[], None] = lambda: None

    def close_streams(self) -> None:
        """End the streams without an end of their own, the polite ones first."""
        self.close_listeners()
        self.gate.close_streams()

    def close_requests(self) -> None:
        """End what is left: each request is told that the server is stopping."""
        self.gate.close_all()


class DirectRoutes:
    """Serves fixed paths at once; the rest goes to `others`, who look at one route after the other.

    What others put around a route is for endpoints that are functions: those stay with them.
    """

    def __init__(self, routes: Sequence[DeclaredRoute], others: ASGIApp) -> None:
        self._others = others
        self._routes: dict[tuple[str, str], DeclaredRoute] = {}
        for route in routes:
            if route.app is route.endpoint and not route.param_convertors:
                for method in route.methods or ():
                    if _first_match(routes, method, route.path) is route:
                        self._routes[method, route.path] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope.get("root_path"):
            route = self._routes.get((scope["method"], scope["path"]))
            if route is not None:
                scope["path_params"] = {}
                await route.handle(scope, receive, send)
                return
        await self._others(scope, receive, send)


def _first_match(routes: Sequence[DeclaredRoute], method: str, path: str) -> DeclaredRoute | None:
    scope = {"type": "http", "method": method, "path": path}
    return next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)


def gate_for(settings: Settings, keys: KeyService) -> Gate:
    """Return the gate that the settings ask for."""
    return Gate(
        keys,
        auth=settings.auth == "on",
        max_body_bytes=settings.max_body_bytes,
        max_object_bytes=settings.max_object_bytes,
        trusts_loopback=settings.public_url is None,  # with one, a proxy stands before us
        passes=Passes(pass_secret(settings)),
    )


def assembled(
    settings: Settings,
    gate: Gate,
    routes: Sequence[DeclaredRoute],
    counted: Callable[[ASGIApp], ASGIApp],
) -> ASGIApp:
    """Bind the routes to their gate, and put the guard of host names and the counter before them."""
    gate.bind(routes)
    public = [settings.public_url] if settings.public_url else []
    starlette = Starlette(routes=gate.routes, exception_handlers={404: render_unknown_path})
    app = HostGuard(
        DirectRoutes(gate.routes, starlette),
        hosts=[*settings.allowed_hosts, *(_host(url) for url in public)],
        origins=[*settings.allowed_origins, *public],
        render=gate.render_for_path,
    )
    return counted(app)


def metrics_of(
    engines: ControlEngines, operations: Operations, stores: Stores, services: ControlServices
) -> tuple[DeclaredRoute, Callable[[ASGIApp], ASGIApp]]:
    """Return the route of /metrics, and what counts the requests to an application."""
    from mcp_server import metrics  # stdio has no use for its library

    counts = metrics.Metrics(operations, stores.queue, services.models.usage, services.runs)
    route = metrics.route(
        *(counts, operations, engines.control),
        lambda: health.engines_up(engines.checks),
        engines.router.upstreams,
    )
    return route, lambda app: metrics.RequestCounter(app, counts)


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
