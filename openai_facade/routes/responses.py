"""`/v1/responses`: create, read, follow, cancel, delete, the items of the input, and how many tokens it has."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import orjson

from mcp_server.auth.principal import current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.errors import NotFound
from mcp_server.policy import Listing
from mcp_server.services.responses import model_uri
from openai_facade.endpoint import declare
from openai_facade.exchange import Exchange
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.idempotency import idempotent
from openai_facade.responses import background
from openai_facade.responses.agent_background import start_run
from openai_facade.responses.agent_runs import agent_run_of, cancelled_run, seen_as_response
from openai_facade.responses.agent_stream import agent_response, follow_agent
from openai_facade.responses.beginning import begin
from openai_facade.responses.counting import count_input
from openai_facade.responses.engine import Answering
from openai_facade.responses.memory import remembering
from openai_facade.translate.response_events import Event
from openai_facade.translate.response_items import shown_item
from openai_facade.wire.pages import (
    Page,
    include_of,
    list_object,
    page_arguments,
    query_of,
    unknown_cursor,
)
from openai_facade.wire.response_query import stream_arguments
from openai_facade.wire.responses import check_response

PATH = "/v1/responses"
ONE = "/v1/responses/{response_id}"

_PROMISES = ("response.created", "response.in_progress", "response.mcp_list_tools.")


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    async def create(exchange: Exchange) -> None:
        await _create(facade, exchange)

    async def retrieve(exchange: Exchange) -> None:
        await _retrieve(facade, exchange)

    async def delete(exchange: Exchange) -> None:
        await _delete(facade, exchange)

    async def input_items(exchange: Exchange) -> None:
        await _input_items(facade, exchange)

    async def input_tokens(exchange: Exchange) -> None:
        await _input_tokens(facade, exchange)

    async def cancel(exchange: Exchange) -> None:
        await _cancel(facade, exchange)

    once = idempotent(facade, create, only_stored=True)
    return [
        declare(facade, PATH, once, methods=["POST"], verb="run"),
        declare(facade, f"{PATH}/input_tokens", input_tokens, methods=["POST"], verb="read"),
        declare(facade, ONE, retrieve, methods=["GET"], verb="read"),
        declare(facade, ONE, delete, methods=["DELETE"], verb="write"),
        declare(facade, f"{ONE}/cancel", cancel, methods=["POST"], verb="run"),
        declare(facade, f"{ONE}/input_items", input_items, methods=["GET"], verb="read"),
    ]


async def _create(facade: Facade, exchange: Exchange) -> None:
    body = await exchange.read_object()
    model_id = check_response(body)
    async with (
        exchange.while_connected(),
        facade.asking(exchange, model_uri(model_id)),
        AsyncExitStack() as stack,
    ):
        if body.get("background"):
            of_agent = model_id.startswith(AGENT_PREFIX)
            create = _create_run if of_agent else _create_in_background
            await create(facade, exchange, body)
            return
        held = remembering(facade, current_principal(), body)
        memory = await stack.enter_async_context(held)
        answering = await begin(facade, current_principal(), body, memory=memory)
        try:
            await send(exchange, answering, stream=bool(body.get("stream")))
        finally:
            if answering.has_effects:
                exchange.forbid_retry()


async def _create_in_background(facade: Facade, exchange: Exchange, body: dict[str, Any]) -> None:
    queued = await background.start(facade, current_principal(), body)
    if body.get("stream"):
        await _follow(facade, exchange, queued["id"], -1)
    else:
        await exchange.answer(orjson.dumps(queued))


async def _create_run(facade: Facade, exchange: Exchange, body: dict[str, Any]) -> None:
    run = await start_run(facade, current_principal(), body)
    if body.get("stream"):
        await _pass_on(exchange, follow_agent(facade, current_principal(), run, -1))
    else:
        seen = await agent_response(facade, current_principal(), run)
        await exchange.answer(orjson.dumps(seen))


async def _follow(facade: Facade, exchange: Exchange, response: str, after: int) -> None:
    """Stream the events with a number over `after`; who leaves does not stop what is followed."""
    await _pass_on(exchange, background.follow(facade, current_principal(), response, after))


async def _pass_on(exchange: Exchange, followed: AsyncGenerator[Event, None]) -> None:
    async with aclosing(followed) as events, exchange.open_stream():
        async for event in events:
            await exchange.typed_event(event)
    await exchange.end()


async def send(exchange: Exchange, answering: Answering, *, stream: bool) -> None:
    """Answer with a response, event by event or whole.

    Raises:
        AppError: it failed before anything was done that the client should know of.
    """
    async with aclosing(answering.events()) as events:
        if not stream:
            async for _ in events:
                pass
            if answering.failure is not None and not answering.has_effects:
                raise answering.failure
            await exchange.answer(orjson.dumps(answering.response))
            return
        held: list[dict[str, Any]] = []
        async for event in events:
            held.append(event)
            if not _is_promise(event):
                break
        if answering.failure is not None:
            raise answering.failure
        async with exchange.open_stream():
            for event in held:
                await exchange.typed_event(event)
            async for event in events:
                await exchange.typed_event(event)
        await exchange.end()


def _is_promise(event: dict[str, Any]) -> bool:
    """Tell whether an event tells nothing of the model yet: the answer's status waits for one that does."""
    of_list = event.get("item", {}).get("type") == "mcp_list_tools"
    return of_list or event["type"].startswith(_PROMISES)


async def _retrieve(facade: Facade, exchange: Exchange) -> None:
    query = query_of(exchange.scope)
    after = stream_arguments(query)
    await facade.count(exchange)
    try:
        stored = await facade.services.responses.get(current_principal(), _id(exchange))
    except NotFound:
        run = await agent_run_of(facade, current_principal(), _id(exchange))
        if run is None:
            raise
        if after is None:
            seen = await seen_as_response(facade, current_principal(), _id(exchange))
            await exchange.answer(orjson.dumps(seen))
            return
        async with exchange.while_connected():
            await _pass_on(exchange, follow_agent(facade, current_principal(), run, after))
        return
    if after is not None:
        await background.check_followable(facade, current_principal(), stored)
        async with exchange.while_connected():
            await _follow(facade, exchange, stored.id, after)
        return
    include = include_of(query)
    response = await background.now(facade, current_principal(), stored)
    items = [
        shown_item({**item, **stored.hidden.get(item["id"], {})}, include)
        for item in response["output"]
    ]
    await exchange.answer(orjson.dumps(response | {"output": items}))


async def _cancel(facade: Facade, exchange: Exchange) -> None:
    await facade.count(exchange)
    try:
        stored = await facade.services.responses.get(current_principal(), _id(exchange), verb="run")
    except NotFound:
        seen = await cancelled_run(facade, current_principal(), _id(exchange))
        if seen is None:
            raise
        await exchange.answer(orjson.dumps(seen))
        return
    ended = await background.cancel(facade, current_principal(), stored)
    await exchange.answer(orjson.dumps(ended))


async def _delete(facade: Facade, exchange: Exchange) -> None:
    await facade.count(exchange)
    response = _id(exchange)
    stored = await facade.services.responses.get(current_principal(), response, verb="write")
    if not background.is_over(stored.response):
        await background.cancel(facade, current_principal(), stored)
    await facade.services.responses.delete(current_principal(), response)
    gone = {"id": response, "object": "response", "deleted": True}
    await exchange.answer(orjson.dumps(gone))


async def _input_items(facade: Facade, exchange: Exchange) -> None:
    query = query_of(exchange.scope)
    page, include = page_arguments(query), include_of(query)
    await facade.count(exchange)
    chain = await facade.services.responses.chain(current_principal(), _id(exchange))
    earlier = [item for stored in chain[:-1] for item in stored.items]
    items = [shown_item(item, include) for item in (*earlier, *chain[-1].input)]
    await exchange.answer(orjson.dumps(_page(items, page)))


def _page(items: list[dict[str, Any]], page: Page) -> dict[str, Any]:
    if page.order == "desc":
        items.reverse()
    places = {item["id"]: number for number, item in enumerate(items)}
    for name, cursor in (("after", page.after), ("before", page.before)):
        if cursor is not None and cursor not in places:
            raise unknown_cursor(name, cursor)
    if page.after is not None:
        items = items[places[page.after] + 1 :]
    if page.before is not None:
        items = items[: places[page.before]]
        return list_object(items[-page.limit :], len(items) > page.limit)
    return list_object(items[: page.limit], len(items) > page.limit)


async def _input_tokens(facade: Facade, exchange: Exchange) -> None:
    body = await exchange.read_object()
    model = body.get("model")
    uri = model_uri(model) if isinstance(model, str) else Listing("model://")
    async with facade.operation(exchange, "read", uri):
        memory = facade.services.conversations
        tokens = await count_input(facade, current_principal(), body, memory)
    counted = {"object": "response.input_tokens", "input_tokens": tokens}
    await exchange.answer(orjson.dumps(counted))


def _id(exchange: Exchange) -> str:
    return exchange.scope["path_params"]["response_id"]
