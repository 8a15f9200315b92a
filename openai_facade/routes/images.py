"""`POST /v1/images/…`: images made and edited, passed on to an upstream that makes them."""

from __future__ import annotations

from mcp_server.doors import DeclaredRoute
from openai_facade.endpoint import declare
from openai_facade.facade import Facade
from openai_facade.passing import Passing


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""
    return [
        declare(
            facade,
            f"/v1{path}",
            Passing(facade, "images", path, forms=forms, names_model=False),
            methods=["POST"],
            verb="run",
        )
        for path, forms in (("/images/generations", False), ("/images/edits", True))
    ]
