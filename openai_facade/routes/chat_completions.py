"""`POST /v1/chat/completions`: a model's own answer, one with tools of this server, or an agent's."""

from __future__ import annotations

from contextlib import aclosing

from mcp_server.auth.principal import Principal, current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.errors import Unavailable
from mcp_server.llm import ChatRequest, Model
from mcp_server.llm.batches import batches_of
from mcp_server.services.model_ids import model_uri
from openai_facade.agent_chat import answer_as_agent
from openai_facade.chat_media import with_media
from openai_facade.chat_memory import deliver, resume, without_store
from openai_facade.chat_tools import answer_with_tools
from openai_facade.delivery import Delivery
from openai_facade.endpoint import declare
from openai_facade.exchange import Exchange
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.translate.mcp_opt_in import select_tools
from openai_facade.translate.old_functions import with_tools
from openai_facade.wire.chat import check_chat
from openai_facade.wire.chat_tools import require_offered


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    async def create(exchange: Exchange) -> None:
        await _create(facade, exchange)

    return [declare(facade, "/v1/chat/completions", create, methods=["POST"], verb="run")]


async def _create(facade: Facade, exchange: Exchange) -> None:
    body = await exchange.read_object()
    model_id = check_chat(body)
    principal = current_principal()
    agent = model_id.startswith(AGENT_PREFIX)
    async with (
        exchange.while_connected(),
        facade.asking(exchange, model_uri(model_id)),
    ):
        delivery = deliver(facade, exchange, principal, body)
        messages = await with_media(facade.services.media, principal, body["messages"])
        request = {**body, "messages": messages}
        if agent:
            await answer_as_agent(facade, exchange, principal, request, delivery)
        else:
            await _answer_as_model(facade, exchange, principal, with_tools(request), delivery)


async def _answer_as_model(
    facade: Facade, exchange: Exchange, principal: Principal, body: ChatRequest, delivery: Delivery
) -> None:
    model_id: str = body["model"]
    selection = select_tools(body, facade.default_mcp_servers(principal, model_id))
    if selection is None:
        require_offered(body)
    model, known_as = await facade.router.resolve(model_id)
    request = {**await resume(facade, principal, body), "model": known_as}
    if selection is not None:
        await answer_with_tools(facade, exchange, principal, model, request, selection, delivery)
    elif delivery.streams:
        await _relay(delivery, model, without_store(request))
    else:
        await delivery.whole(await model.complete(without_store(request)))


async def _relay(delivery: Delivery, model: Model, request: ChatRequest) -> None:
    """Pass chunks on as they come; the 200 waits for the first, so that a refusal keeps its status."""
    async with aclosing(batches_of(model, request)) as batches:
        batch = await anext(batches, None)
        if batch is None:
            raise Unavailable("the model ended its answer before it began; try again")
        async with delivery.opened():
            await delivery.chunks(batch)
            async for batch in batches:
                await delivery.chunks(batch)
            await delivery.end()
