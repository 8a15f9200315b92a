"""The HTTP application over an open runtime: every route, its gate and its guards."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from starlette.applications import Starlette
from starlette.types import ASGIApp

from mcp_server import health
from mcp_server.auth.passes import Passes
from mcp_server.door_errors import render_unknown_path
from mcp_server.doors import DeclaredRoute, Gate
from mcp_server.runtime import FRAMES_AT_ONCE, Runtime
from mcp_server.secret import server_secret
from mcp_server.server import IsthmusServer
from mcp_server.services.run_results import RESPONSE_KIND
from mcp_server.transports import http, links, sse, uploads
from mcp_server.transports.host_guard import HostGuard

if TYPE_CHECKING:
    from openai_facade.facade import Facade

Role = Literal["all", "mcp", "openai"]


@dataclass(frozen=True, slots=True)
class HttpApp:
    """The application, and what its server needs to end it well."""

    app: ASGIApp
    gate: Gate
    server: IsthmusServer

    def close_streams(self) -> None:
        """End the streams without an end of their own, the polite ones first."""
        self.server.listeners.close()
        self.gate.close_streams()

    def close_requests(self) -> None:
        """End what is left: each request is told that the server is stopping."""
        self.gate.close_all()


@asynccontextmanager
async def open_http(runtime: Runtime, role: Role = "all") -> AsyncGenerator[HttpApp]:
    """Yield the HTTP application over an open runtime."""
    settings = runtime.settings
    gate = Gate(
        runtime.services.keys,
        auth=settings.auth == "on",
        max_body_bytes=settings.max_body_bytes,
        max_object_bytes=settings.max_object_bytes,
        trusts_loopback=settings.public_url is None,  # with one, a proxy stands before us
        passes=Passes(server_secret(settings)),
    )
    manager = http.session_manager(runtime.server, settings.max_body_bytes)
    routes = [
        *health.routes(runtime.engines.checks),
        *http.routes(manager),
        *sse.routes(runtime.server, settings.max_body_bytes),
        *links.routes(runtime.services.links),
        *uploads.routes(runtime.services.uploads),
    ]
    if role == "all":
        routes += _openai_routes(runtime, gate)
    metrics_route, counted = _metrics(runtime)
    gate.bind([*routes, metrics_route])
    public = [settings.public_url] if settings.public_url else []
    app = HostGuard(
        Starlette(routes=gate.routes, exception_handlers={404: render_unknown_path}),
        hosts=[*settings.allowed_hosts, *(_host(url) for url in public)],
        origins=[*settings.allowed_origins, *public],
        render=gate.render_for_path,
    )
    async with manager.run(), gate.watching():
        yield HttpApp(counted(app), gate, runtime.server)


def _metrics(runtime: Runtime) -> tuple[DeclaredRoute, Callable[[ASGIApp], ASGIApp]]:
    """Return /metrics, and what counts the requests to an application."""
    from mcp_server import metrics  # stdio has no use for its library

    engines = runtime.engines
    counts = metrics.Metrics(
        runtime.operations, runtime.stores.queue, runtime.services.models.usage
    )
    route = metrics.route(
        *(counts, runtime.operations, engines.control),
        lambda: health.engines_up(engines.checks),
        engines.router.upstreams,
    )
    return route, lambda app: metrics.RequestCounter(app, counts)


def _openai_routes(runtime: Runtime, gate: Gate) -> list[DeclaredRoute]:
    from openai_facade import app as facade_app
    from openai_facade import errors as facade_errors

    gate.renderers["openai"] = facade_errors.render
    facade = bind_works(runtime)
    return facade_app.routes(facade)


def bind_works(runtime: Runtime) -> Facade:
    """Have the runtime's worker execute what stands above it: responses in the background."""
    from openai_facade.facade import Facade, servers_for_models
    from openai_facade.responses.work import ResponseWork

    facade = Facade(
        router=runtime.engines.router,
        bus=runtime.bus,
        services=runtime.services,
        operations=runtime.operations,
        embedder=runtime.engines.embedder,
        default_mcp_servers=servers_for_models(runtime.settings.chat_tools_models, "isthmus"),
    )
    read, scopes_now = runtime.stores.events.read, runtime.services.keys.scopes_now
    runtime.works[RESPONSE_KIND] = ResponseWork(
        facade, scopes_now, lambda run, after: read(run, after, FRAMES_AT_ONCE)
    )
    return facade


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
