"""A chat in which the model calls tools of this server: one answer, however many turns it takes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from mcp_server.agents.events import Finished, LoopEvent
from mcp_server.agents.loop import run_loop
from mcp_server.auth.principal import Principal
from mcp_server.errors import Unavailable
from mcp_server.llm import ChatRequest, Model
from mcp_server.llm.custom_tools import as_custom, as_functions
from mcp_server.llm.wire import Frame
from openai_facade.chat_memory import kept_for_later, without_store
from openai_facade.delivery import Delivery
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.toolbox import open_toolbox
from openai_facade.translate.loop_answer import LoopChunks, Trace, loop_completion
from openai_facade.translate.mcp_opt_in import (
    ToolSelection,
    allows_tools,
    client_functions,
    function_choice,
    require_one_answer,
    without_opt_in,
)


async def answer_with_tools(
    facade: Facade,
    exchange: Exchange,
    principal: Principal,
    model: Model,
    request: ChatRequest,
    selection: ToolSelection,
    delivery: Delivery,
) -> None:
    """Run the loop and answer with it.

    Only tools that were added here run on the server: a call to a function of the client ends the
    answer with finish_reason tool_calls. A function of the client hides a tool of the same name.

    Raises:
        AppError: the request does not fit, or the model failed.
    """
    require_one_answer(request)
    toolbox = await open_toolbox(facade.bus, principal, selection)
    specs = await toolbox.specs() if allows_tools(request) else []
    offered = [spec["function"]["name"] for spec in specs]
    plain, custom = as_functions(function_choice(without_opt_in(without_store(request)), offered))
    trace = Trace(toolbox.tool_name)
    looped = run_loop(model, toolbox, plain, facade.limits, client_functions(plain))
    events = kept_for_later(facade, principal, delivery.model_id, looped)
    try:
        await send_loop(delivery, trace, _customs(events, custom))
    finally:
        if trace.has_effects:
            exchange.forbid_retry()


async def _customs(
    events: AsyncGenerator[LoopEvent, None], custom: frozenset[str]
) -> AsyncGenerator[LoopEvent, None]:
    """Give the client's custom tools their own calls back."""
    async with aclosing(events):
        async for event in events:
            if not isinstance(event, Finished) or not custom:
                yield event
                continue
            calls = [as_custom(call, custom) for call in event.client_calls]
            message = event.message | ({"tool_calls": calls} if calls else {})
            yield replace(event, message=message, client_calls=calls)


async def send_loop(
    delivery: Delivery, trace: Trace, events: AsyncGenerator[LoopEvent, None]
) -> None:
    """Answer with the events of a loop, in chunks as they come or whole at the end."""
    frame = Frame(delivery.model_id, delivery.include_usage)
    async with aclosing(events):
        if delivery.streams:
            await _stream(delivery, LoopChunks(frame, trace), events)
            return
        finished: Finished | None = None
        async for event in events:
            trace.note(event)
            if isinstance(event, Finished):
                finished = event
    if finished is None:
        raise _BROKEN
    await delivery.whole(loop_completion(frame, trace, finished))


async def _stream(
    delivery: Delivery, chunks: LoopChunks, events: AsyncGenerator[LoopEvent, None]
) -> None:
    pending: list[dict[str, Any]] = []
    async for event in events:  # the 200 waits for the first event that shows
        pending = chunks.feed(event)
        if pending:
            break
    if not pending:
        raise _BROKEN
    async with delivery.opened():
        for chunk in pending:
            await delivery.chunk(chunk)
        async for event in events:
            for chunk in chunks.feed(event):
                await delivery.chunk(chunk)
        await delivery.end()


_BROKEN = Unavailable("the model ended its answer before it began; try again")
