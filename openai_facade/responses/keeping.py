"""Keeping a response that was made: as a row, and in its conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp_server.agents.steps import Steps
from mcp_server.auth.principal import Principal
from mcp_server.services.responses import StoredResponse
from openai_facade.facade import Facade
from openai_facade.responses.context import Memory
from openai_facade.translate.response_object import Item, Response
from openai_facade.wire.responses import conversation_id


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept: the request's body and own items, the response, and what its items hide."""

    body: dict[str, Any]
    own: list[Item]
    response: Response
    hidden: dict[str, dict[str, Any]]
    previous: str | None


async def keep(
    facade: Facade, principal: Principal, kept: Kept, memory: Memory | None, steps: Steps | None
) -> None:
    """Store a response unless its request says not to, and add it to the conversation that it names.

    Raises:
        AppError: it cannot be stored.
    """
    conversation = conversation_id(kept.body)
    # Both are of one step: a worker that lost the run meanwhile, and wakes up, writes neither.
    key = None if steps is None else steps.key("store")
    if kept.body.get("store") is not False:
        stored = StoredResponse(
            id=kept.response["id"],
            model=kept.body["model"],
            input=kept.own,
            response=kept.response,
            hidden=kept.hidden,
            previous=kept.previous,
            conversation=conversation,
        )
        await facade.services.responses.store(principal, stored, key=key)
    if conversation is not None and memory is not None:
        output = [{**item, **kept.hidden.get(item["id"], {})} for item in kept.response["output"]]
        await memory.remember(principal, conversation, [*kept.own, *output], key=key)
