"""`POST /v1/moderations`: passed on to an upstream that moderates."""

from __future__ import annotations

from mcp_server.doors import DeclaredRoute
from openai_facade.endpoint import declare
from openai_facade.facade import Facade
from openai_facade.passing import Passing


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""
    create = Passing(facade, "moderations", "/moderations", names_model=False)
    return [declare(facade, "/v1/moderations", create, methods=["POST"], verb="run")]
