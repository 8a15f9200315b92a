"""How many tokens the input of a response has, before it is asked for."""

from __future__ import annotations

from typing import Any

import orjson

from mcp_server.auth.principal import Principal
from openai_facade.facade import Facade
from openai_facade.responses.context import Memory, load_context
from openai_facade.responses.tools import gather_tools
from openai_facade.translate.response_messages import messages_of_items
from openai_facade.translate.response_search import Sources
from openai_facade.translate.token_arrays import count_tokens
from openai_facade.wire.responses import check_context

# What OpenAI's chat format adds: https://github.com/openai/openai-cookbook (How to count tokens).
_PER_MESSAGE, _PER_REPLY = 3, 3


async def count_input(
    facade: Facade, principal: Principal, body: dict[str, Any], memory: Memory | None = None
) -> int:
    """Count as cl100k_base: close to what most models count, and the same for all of them.

    Raises:
        InvalidRequest: the body does not fit, or names what is not there.
    """
    check_context(body)
    context = await load_context(facade.services.responses, memory, principal, body, facade.sealer)
    tools = await gather_tools(facade.bus, None, principal, body, context.items)
    messages = messages_of_items(
        context.readable([*context.instructions, *context.items]), Sources()
    )
    total = _PER_REPLY
    for message in messages:
        content = message["content"]
        text = content if isinstance(content, str) else _text(content)
        calls = message.get("tool_calls")
        total += _PER_MESSAGE + count_tokens(text + (_text(calls) if calls else ""))
    specs = [*tools.shown, *tools.made]
    return total + (count_tokens(_text(specs)) if specs else 0)


def _text(value: Any) -> str:
    return "" if value is None else orjson.dumps(value).decode()
