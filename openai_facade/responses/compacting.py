"""Compacting a conversation: a model sums it up, and the summary goes to the client sealed."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from mcp_server.auth.principal import Principal
from mcp_server.errors import Unavailable
from mcp_server.llm.wire import list_of, object_of
from openai_facade.chat_media import with_media
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.responses.context import load_context
from openai_facade.translate.response_items import shown_item
from openai_facade.translate.response_messages import messages_of_items
from openai_facade.translate.response_object import Item, item_id, response_usage
from openai_facade.translate.response_search import Sources
from openai_facade.wire.faults import unsupported

_TASK = (
    "Sum up the conversation so far, for a reader who has to go on with it and sees nothing else but "
    "what the user said: what was asked, decided, found out and done, with every name, number, id and "
    "open point that may be needed. Write the summary alone."
)


async def compacted(facade: Facade, principal: Principal, body: dict[str, Any]) -> dict[str, Any]:
    """Give the compacted form of what a checked body names: what the user said, and a sealed summary.

    Raises:
        AppError: the body names what is not there, or the model failed.
    """
    if body["model"].startswith(AGENT_PREFIX):
        raise unsupported("model", "an agent sums nothing up; name a model.")
    context = await load_context(facade.services.responses, None, principal, body, facade.sealer)
    items = [*context.instructions, *context.items]
    messages = messages_of_items(context.readable(items), Sources())
    messages = await with_media(facade.services.media, principal, messages)
    model, known_as = await facade.router.resolve(body["model"])
    asked = [*messages, {"role": "user", "content": _TASK}]
    answer = await model.complete({"model": known_as, "messages": asked})
    choices = list_of(answer.get("choices"))
    summary = object_of(object_of(choices[0]).get("message")).get("content") if choices else None
    if not isinstance(summary, str) or not summary.strip():
        raise Unavailable("the model gave no summary; try again")
    compaction: Item = {
        "id": item_id("compaction"),
        "type": "compaction",
        "encrypted_content": facade.sealer.seal(principal.tenant, summary),
    }
    said = [item for item in context.items if item["type"] == "message" and item["role"] == "user"]
    return {
        "id": f"resp_{uuid4().hex}",
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*(shown_item(item, ()) for item in said), compaction],
        "usage": response_usage(answer.get("usage") or {}),
    }
