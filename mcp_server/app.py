"""The HTTP application over an open runtime: every route, its gate and its guards."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

from mcp_server import health
from mcp_server.doors import DeclaredRoute, Gate
from mcp_server.http_app import HttpApp, assembled, gate_for, metrics_of
from mcp_server.runtime import FRAMES_AT_ONCE, Runtime
from mcp_server.sealing import Sealer
from mcp_server.secret import pass_secret
from mcp_server.services.run_results import BATCH_KIND, RESPONSE_KIND
from mcp_server.transports import http, links, sse, uploads

if TYPE_CHECKING:
    from openai_facade.facade import Facade

Role = Literal["all", "mcp"]


@asynccontextmanager
async def open_http(runtime: Runtime, role: Role = "all") -> AsyncGenerator[HttpApp]:
    """Yield the HTTP application over an open runtime.

    Role `mcp` serves of /v1 what needs data engines; the rest is for processes of role `openai`.
    """
    settings = runtime.settings
    gate = gate_for(settings, runtime.services.keys)
    manager = http.session_manager(runtime.server, settings.max_body_bytes)
    metrics_route, counted = metrics_of(
        runtime.engines, runtime.operations, runtime.stores, runtime.services
    )
    routes = [
        *health.routes(runtime.engines.checks),
        *http.routes(manager),
        *sse.routes(runtime.server, settings.max_body_bytes),
        *links.routes(runtime.services.links),
        *uploads.routes(runtime.services.uploads),
        *_openai_routes(runtime, gate, role),
        metrics_route,
    ]
    app = assembled(settings, gate, routes, counted)
    async with manager.run(), gate.watching():
        yield HttpApp(app, gate, runtime.server.listeners.close)


def _openai_routes(runtime: Runtime, gate: Gate, role: Role) -> list[DeclaredRoute]:
    from openai_facade import app as facade_app
    from openai_facade import errors as facade_errors

    gate.renderers["openai"] = facade_errors.render
    return facade_app.routes(bind_works(runtime), role)


def bind_works(runtime: Runtime) -> Facade:
    """Have the runtime's worker execute what stands above it: batches, and responses in the background."""
    from openai_facade.batches.work import BatchWork
    from openai_facade.facade import Facade, servers_for_models
    from openai_facade.responses.work import ResponseWork

    facade = Facade(
        router=runtime.engines.router,
        bus=runtime.bus,
        services=runtime.services,
        data_services=runtime.services,
        operations=runtime.operations,
        embedder=runtime.engines.embedder,
        sealer=Sealer(pass_secret(runtime.settings), "compactions"),
        default_mcp_servers=servers_for_models(runtime.settings.chat_tools_models, "isthmus"),
    )
    read, scopes_now = runtime.stores.events.read, runtime.services.keys.scopes_now
    runtime.works[RESPONSE_KIND] = ResponseWork(
        facade, scopes_now, lambda run, after: read(run, after, FRAMES_AT_ONCE)
    )
    longest = runtime.settings.max_body_bytes
    runtime.works[BATCH_KIND] = BatchWork(facade, scopes_now, longest)
    return facade
