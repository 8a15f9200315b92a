"""`/v1/responses/compact`: a long conversation becomes a short one."""

from __future__ import annotations

import orjson

from mcp_server.auth.principal import current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.services.model_ids import model_uri
from openai_facade.endpoint import declare
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.responses.compacting import compacted
from openai_facade.wire.compaction import check_compaction

PATH = "/v1/responses/compact"


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    async def compact(exchange: Exchange) -> None:
        body = await exchange.read_object()
        model = check_compaction(body)
        async with (
            exchange.while_connected(),
            facade.asking(exchange, model_uri(model)),
        ):
            made = await compacted(facade, current_principal(), body)
            await exchange.answer(orjson.dumps(made))

    return [declare(facade, PATH, compact, methods=["POST"], verb="run")]
