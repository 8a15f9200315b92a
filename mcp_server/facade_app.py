"""The HTTP application of role `openai`: /v1 without what needs data engines, health and metrics."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mcp_server import health
from mcp_server.facade_runtime import FacadeRuntime
from mcp_server.http_app import HttpApp, assembled, gate_for, metrics_of
from mcp_server.sealing import Sealer
from mcp_server.secret import pass_secret
from openai_facade import app as facade_app
from openai_facade import errors as facade_errors
from openai_facade.facade import Facade, servers_for_models


@asynccontextmanager
async def open_facade_http(runtime: FacadeRuntime) -> AsyncGenerator[HttpApp]:
    """Yield the HTTP application over what is open."""
    settings, engines = runtime.settings, runtime.engines
    gate = gate_for(settings, runtime.services.keys)
    gate.renderers["openai"] = facade_errors.render
    facade = Facade(
        router=engines.router,
        bus=runtime.bus,
        services=runtime.services,
        operations=runtime.operations,
        embedder=engines.embedder,
        sealer=Sealer(pass_secret(settings), "compactions"),
        default_mcp_servers=servers_for_models(settings.chat_tools_models, "isthmus"),
    )
    metrics_route, counted = metrics_of(
        engines, runtime.operations, runtime.stores, runtime.services
    )
    routes = [
        *health.routes(engines.checks),
        *facade_app.routes(facade, "openai"),
        metrics_route,
    ]
    async with gate.watching():
        yield HttpApp(assembled(settings, gate, routes, counted), gate)
