"""Collects the routes of the OpenAI face: every module of `routes/`, then the answer for everything else."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Literal

from mcp_server.doors import DeclaredRoute
from openai_facade import routes as route_modules
from openai_facade.facade import Facade
from openai_facade.unknown import unknown_routes

Part = Literal["all", "mcp", "openai"]
"""The role of the process: `mcp` serves the modules that say `NEEDS_DATA = True`, `openai` the others."""


def routes(facade: Facade, part: Part = "all") -> list[DeclaredRoute]:
    """Give the routes under /v1 of a role, in an order that may be matched from first to last."""
    found: list[DeclaredRoute] = []
    for module in sorted(pkgutil.iter_modules(route_modules.__path__), key=lambda each: each.name):
        resource = import_module(f"{route_modules.__name__}.{module.name}")
        if part == "all" or getattr(resource, "NEEDS_DATA", False) == (part == "mcp"):
            found += resource.routes(facade)
    return [*found, *unknown_routes(found, facade)]
