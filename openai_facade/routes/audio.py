"""`POST /v1/audio/…`: speech to text and text to speech, passed on to an upstream that has them."""

from __future__ import annotations

from mcp_server.doors import DeclaredRoute
from openai_facade.endpoint import declare
from openai_facade.facade import Facade
from openai_facade.passing import Passing


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""
    kinds = (
        (
            "/audio/transcriptions",
            Passing(facade, "transcriptions", "/audio/transcriptions", forms=True),
        ),
        ("/audio/speech", Passing(facade, "speech", "/audio/speech")),
    )
    return [
        declare(facade, f"/v1{path}", create, methods=["POST"], verb="run")
        for path, create in kinds
    ]
