"""Collects the routes of the OpenAI face: every module of `routes/`, then the answer for everything else."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from mcp_server.doors import DeclaredRoute
from openai_facade import routes as route_modules
from openai_facade.facade import Facade
from openai_facade.unknown import unknown_routes


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give all routes under /v1, in an order that may be matched from first to last."""
    found: list[DeclaredRoute] = []
    for module in sorted(pkgutil.iter_modules(route_modules.__path__), key=lambda each: each.name):
        found += import_module(f"{route_modules.__name__}.{module.name}").routes(facade)
    return [*found, *unknown_routes(found, facade)]
