"""`GET /v1/models` and `GET /v1/models/{model}`: what the caller may ask, agents included."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from mcp_server import policy
from mcp_server.auth.principal import Principal, current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.errors import Forbidden, InvalidInput, NotFound
from mcp_server.llm.router import DEFAULT
from mcp_server.services.agent_items import AgentItem
from openai_facade.endpoint import declare
from openai_facade.exchange import Exchange
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.wire.models import model_list, model_object

_OWNER = "isthmus"


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    async def list_models(exchange: Exchange) -> None:
        principal = current_principal()
        async with facade.operation(exchange, "read", policy.Listing("model://")):
            found = await _models(facade, principal) + await _agents(facade, principal)
        await exchange.answer(orjson.dumps(model_list(found)))

    async def retrieve(exchange: Exchange) -> None:
        principal, model_id = current_principal(), exchange.scope["path_params"]["model"]
        async with facade.operation(exchange, "read", f"model://{model_id}"):
            found = await _model(facade, principal, model_id)
        await exchange.answer(orjson.dumps(found))

    return [
        declare(facade, "/v1/models", list_models, methods=["GET"], verb="read"),
        declare(facade, "/v1/models/{model:path}", retrieve, methods=["GET"], verb="read"),
    ]


async def _models(facade: Facade, principal: Principal) -> list[dict[str, Any]]:
    page = await facade.services.models.list(principal)
    found = {item["id"]: item["upstream"] for item in page["items"]}
    own = facade.embedder.model
    seen = policy.scope(principal, "read", "model")
    if own != DEFAULT and seen.admits(f"model://{own}"):  # an upstream's may have no name yet
        found.setdefault(own, _OWNER)
    return [_object(facade, model_id, owner) for model_id, owner in found.items()]


async def _agents(facade: Facade, principal: Principal) -> list[dict[str, Any]]:
    try:
        page = await facade.services.agents.list(principal)
    except Forbidden:  # a key for models only: it sees the models
        return []
    return [
        _object(facade, AGENT_PREFIX + item["name"], principal.tenant) for item in page["items"]
    ]


async def _model(facade: Facade, principal: Principal, model_id: str) -> dict[str, Any]:
    if model_id in (DEFAULT, facade.embedder.model):
        return _object(facade, model_id, _OWNER)
    try:
        if model_id.startswith(AGENT_PREFIX):
            name = model_id.removeprefix(AGENT_PREFIX)
            return _agent(await facade.services.agents.get(principal, name))
        item = await facade.services.models.get(principal, model_id)
    except (NotFound, InvalidInput) as error:  # a name that no agent can have
        raise NotFound(
            f"The model '{model_id}' does not exist or you do not have access to it.",
            param="model",
        ) from error
    return _object(facade, model_id, item["upstream"])


def _agent(item: AgentItem) -> dict[str, Any]:
    created = int(datetime.fromisoformat(item["created_at"]).timestamp())
    return model_object(AGENT_PREFIX + item["name"], created=created, owned_by=_OWNER)


def _object(facade: Facade, model_id: str, owner: str) -> dict[str, Any]:
    return model_object(model_id, created=facade.created, owned_by=owner)
