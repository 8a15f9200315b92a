"""`POST /v1/chat/completions`: a model's own answer, one with tools of this server, or an agent's."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import orjson

from mcp_server.auth.principal import Principal, current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.errors import Unavailable
from mcp_server.llm import ChatRequest, Completion, Model
from openai_facade.agent_chat import answer_as_agent
from openai_facade.chat_tools import answer_with_tools
from openai_facade.endpoint import declare
from openai_facade.exchange import Exchange
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.translate.mcp_opt_in import select_tools
from openai_facade.wire.chat import check_chat


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
    uri = f"agent://{model_id.removeprefix(AGENT_PREFIX)}" if agent else f"model://{model_id}"
    async with (
        exchange.while_connected(),
        facade.operation(exchange, "run", uri),
    ):
        if agent:
            await answer_as_agent(facade, exchange, principal, body)
        else:
            await _answer_as_model(facade, exchange, principal, body)


async def _answer_as_model(
    facade: Facade, exchange: Exchange, principal: Principal, body: ChatRequest
) -> None:
    model_id: str = body["model"]
    selection = select_tools(body, facade.default_mcp_servers(principal, model_id))
    model, known_as = await facade.router.resolve(model_id)
    request = {**body, "model": known_as}
    if selection is not None:
        await answer_with_tools(facade, exchange, principal, model, request, selection, model_id)
    elif body.get("stream"):
        await _relay(exchange, model, request, model_id)
    else:
        await exchange.answer(orjson.dumps(_completed(await model.complete(request), model_id)))


async def _relay(exchange: Exchange, model: Model, request: ChatRequest, model_id: str) -> None:
    """Pass chunks on as they come; the 200 waits for the first, so that a refusal keeps its status."""
    async with aclosing(model.stream(request)) as chunks:
        chunk = await anext(chunks, None)
        if chunk is None:
            raise Unavailable("the model ended its answer before it began; try again")
        async with exchange.open_stream():
            while chunk is not None:
                chunk["model"] = model_id  # the name that the client knows it by
                await exchange.event(orjson.dumps(chunk))
                chunk = await anext(chunks, None)
        await exchange.done()


def _completed(completion: Completion, model_id: str) -> Completion:
    """Fill in what the wire format requires and upstreams like to leave out."""
    completion["model"] = model_id
    choices: list[dict[str, Any]] = completion.get("choices") or []
    for choice in choices:
        choice.setdefault("logprobs", None)
        message: dict[str, Any] = choice.get("message") or {}
        message.setdefault("content", None)
        message.setdefault("refusal", None)
    return completion
