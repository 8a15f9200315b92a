"""What is remembered of a chat: the whole of it if the client says so, and turns that are to go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from uuid import uuid4

from mcp_server.agents.events import Finished, LoopEvent
from mcp_server.auth.principal import Principal
from mcp_server.llm import ChatRequest, Completion
from mcp_server.services.model_ids import model_uri
from mcp_server.services.stored_chats import StoredChat
from openai_facade.delivery import Delivery
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.translate.mixed_turns import resumed, turns_in, with_kept_ids


def deliver(
    facade: Facade, exchange: Exchange, principal: Principal, body: ChatRequest
) -> Delivery:
    """Give the way of the answer to a checked chat, which is stored there if `store` is true."""
    if not body.get("store"):
        return Delivery(exchange, body)
    chat_id = f"chatcmpl-{uuid4().hex}"

    async def keep(completion: Completion) -> None:
        chat = StoredChat(
            id=chat_id,
            model=body["model"],
            messages=body["messages"],
            completion=completion,
            metadata=body.get("metadata") or {},
        )
        await facade.services.chats.store(principal, chat)

    return Delivery(exchange, body, keep=keep, kept_id=chat_id)


def without_store(body: ChatRequest) -> ChatRequest:
    """Give a chat without the wish to keep it, and its labels: that was this server's to do."""
    if not body.get("store"):
        return body
    return {name: value for name, value in body.items() if name not in {"store", "metadata"}}


async def resume(facade: Facade, principal: Principal, body: ChatRequest) -> ChatRequest:
    """Give a chat with the results of this server in the turns that the client answers to now."""
    turns = turns_in(body["messages"])
    if not turns:
        return body
    uri = model_uri(body["model"])
    kept = await facade.services.turns.recall(principal, uri, turns)
    return {**body, "messages": resumed(body["messages"], kept)}


async def kept_for_later(
    facade: Facade,
    principal: Principal,
    model_id: str,
    events: AsyncGenerator[LoopEvent, None],
) -> AsyncGenerator[LoopEvent, None]:
    """Keep what the server ran for an answer that ends in calls to the client."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finished) and event.client_calls and _ran(event):
                event = await _kept(facade, principal, model_id, event)  # noqa: PLW2901
            yield event


def _ran(finished: Finished) -> bool:
    return any(message["role"] == "tool" for message in finished.transcript)


async def _kept(
    facade: Facade, principal: Principal, model_id: str, finished: Finished
) -> Finished:
    ids = [call["id"] for call in finished.client_calls]
    turn = await facade.services.turns.keep(
        principal, model_uri(model_id), finished.transcript, ids
    )
    calls = with_kept_ids(finished.client_calls, turn)
    message = finished.message | {"tool_calls": calls}
    return replace(finished, message=message, client_calls=calls)
