"""Responses of agents in the background: the run is started, or its question answered, and left to a worker."""

from __future__ import annotations

from typing import Any

from mcp_server.auth.principal import Principal
from mcp_server.services.run_results import RunItem
from openai_facade.agent_chat import start_agent
from openai_facade.chat_media import with_media
from openai_facade.facade import Facade
from openai_facade.responses.background import require_stored
from openai_facade.responses.beginning import read_request
from openai_facade.responses.first_answer import settle
from openai_facade.responses.memory import remembering
from openai_facade.translate.response_search import Sources


async def start_run(facade: Facade, principal: Principal, body: dict[str, Any]) -> RunItem:
    """Check a request as any other, and give the run that is its response.

    Raises:
        AppError: the request does not fit, names what is not there, or too many runs wait. Conflict:
            what it answers was answered already.
    """
    require_stored(body)
    async with remembering(facade, principal, body) as memory:
        asked = await read_request(facade, principal, body, memory=memory)
    if asked.continued is not None:
        await asked.continued.answer(facade, principal)
        return await facade.services.runs.get(principal, asked.continued.run)
    await settle(facade, principal, asked.answered)
    chat = asked.chat([], Sources())
    messages = await with_media(facade.services.media, principal, chat["messages"])
    return await start_agent(facade, principal, chat | {"messages": messages}, asked.joined)
