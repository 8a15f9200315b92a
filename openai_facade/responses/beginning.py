"""Begins a response: its request is checked, and what it names and answers is read, before a model is asked."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from mcp_server.auth.principal import Principal
from mcp_server.services.responses import StoredResponse
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.responses.agent_runs import answered_run
from openai_facade.responses.approvals import read_approvals
from openai_facade.responses.asked import Asked
from openai_facade.responses.context import Begun, Context, Memory, load_context
from openai_facade.responses.engine import Answering
from openai_facade.responses.first_answer import settle
from openai_facade.responses.tools import ToolSet, gather_tools
from openai_facade.translate.response_messages import messages_of_items
from openai_facade.translate.response_object import Response, new_response, response_id
from openai_facade.translate.response_search import Sources
from openai_facade.wire.faults import unsupported
from openai_facade.wire.responses import check_response


async def begin(
    facade: Facade,
    principal: Principal,
    body: dict[str, Any],
    *,
    memory: Memory | None = None,
    begun: Begun | None = None,
    recent: StoredResponse | None = None,
) -> Answering:
    """Check a request and read what it goes on from; nothing is asked of a model yet.

    It may go on from `recent`, too, which is stored nowhere. What it answers of another response's or an agent's run counts from now on, unless it is `begun`.

    Raises:
        AppError: the request does not fit, or names what is not there. Conflict: what it answers was
            answered already.
    """
    asked = await read_request(facade, principal, body, memory=memory, recent=recent)
    if asked.continued is not None:
        await asked.continued.answer(facade, principal)
        return Answering(facade, principal, asked, _new(body), 0, None)
    if begun is None:
        await settle(facade, principal, asked.answered)
        return Answering(facade, principal, asked, _new(body), 0, memory)
    answering = Answering(facade, principal, asked, begun.response, begun.sequence, memory)
    answering.remember_hidden(begun.hidden)
    return answering


async def read_request(
    facade: Facade,
    principal: Principal,
    body: dict[str, Any],
    *,
    memory: Memory | None = None,
    recent: StoredResponse | None = None,
) -> Asked:
    """Check a request and read what it names, see `begin`; nothing counts yet.

    Raises:
        AppError: the request does not fit, or names what is not there.
    """
    model_id = check_response(body)
    continued = await answered_run(facade, principal, body, model_id)
    if continued is not None:
        context = Context([], continued.items, [])
        return Asked(body, context, ToolSet(), [], None, model_id, continued.previous, continued)
    previous: str | None = body.get("previous_response_id")
    stored = facade.services.responses
    context = await load_context(stored, memory, principal, body, facade.sealer, recent)
    if recent is not None and previous == recent.id:  # nobody else will know what it was
        previous, context = None, replace(context, earlier=[], own=context.items)
    tools = await gather_tools(
        *(facade.bus, facade.services.outside_tools, principal, body, context.items)
    )
    answered = read_approvals(context, tools.calls)
    # So that a gap shows before anything is told:
    messages_of_items(context.readable(context.items), Sources())
    model, known_as = None, model_id
    if not model_id.startswith(AGENT_PREFIX):
        model, known_as = await facade.router.resolve(model_id)
    elif body.get("tools"):
        raise unsupported("tools", "an agent has the tools of its definition; leave it out.")
    return Asked(body, context, tools, answered, model, known_as, previous)


def _new(body: dict[str, Any]) -> Response:
    return new_response(body, response=response_id(), created_at=int(time.time()))
