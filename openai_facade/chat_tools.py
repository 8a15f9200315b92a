"""A chat in which the model calls tools of this server: one answer, however many turns it takes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from mcp_server.agents.events import Finished, LoopEvent
from mcp_server.agents.loop import run_loop
from mcp_server.auth.principal import Principal
from mcp_server.errors import Unavailable
from mcp_server.llm import ChatRequest, Model
from mcp_server.llm.wire import Frame, wants_usage
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.toolbox import open_toolbox
from openai_facade.translate.loop_answer import LoopChunks, Trace, loop_completion
from openai_facade.translate.mcp_opt_in import (
    ToolSelection,
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
    model_id: str,
) -> None:
    """Run the loop and answer with it.

    Only tools that were added here run on the server: a call to a function of the client ends the
    answer with finish_reason tool_calls. A function of the client hides a tool of the same name.

    Raises:
        AppError: the request does not fit, or the model failed.
    """
    require_one_answer(request)
    toolbox = await open_toolbox(facade.bus, principal, selection)
    plain = function_choice(without_opt_in(request))
    frame = Frame(model_id, wants_usage(request))
    trace = Trace(toolbox.tool_name)
    events = run_loop(model, toolbox, plain, facade.limits, client_functions(plain))
    try:
        await send_loop(exchange, frame, trace, events, stream=bool(request.get("stream")))
    finally:
        if trace.has_effects:
            exchange.forbid_retry()


async def send_loop(
    exchange: Exchange,
    frame: Frame,
    trace: Trace,
    events: AsyncGenerator[LoopEvent, None],
    *,
    stream: bool,
) -> None:
    """Answer with the events of a loop, in chunks as they come or whole at the end."""
    async with aclosing(events):
        if stream:
            await _stream(exchange, LoopChunks(frame, trace), events)
            return
        finished: Finished | None = None
        async for event in events:
            trace.note(event)
            if isinstance(event, Finished):
                finished = event
    if finished is None:
        raise _BROKEN
    await exchange.answer(orjson.dumps(loop_completion(frame, trace, finished)))


async def _stream(
    exchange: Exchange, chunks: LoopChunks, events: AsyncGenerator[LoopEvent, None]
) -> None:
    pending: list[dict[str, Any]] = []
    async for event in events:  # the 200 waits for the first event that shows
        pending = chunks.feed(event)
        if pending:
            break
    if not pending:
        raise _BROKEN
    async with exchange.open_stream():
        for chunk in pending:
            await exchange.event(orjson.dumps(chunk))
        async for event in events:
            for chunk in chunks.feed(event):
                await exchange.event(orjson.dumps(chunk))
    await exchange.done()


_BROKEN = Unavailable("the model ended its answer before it began; try again")
