"""What a call would do, told to the person who is asked for approval: within bounds, and never in the way of the question."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol, runtime_checkable

from mcp_server.agents.answer import ToolCall
from mcp_server.errors import AppError, Unauthenticated

MOST_SECONDS = 5.0
MOST_CHARS = 16_384


@runtime_checkable
class Previewing(Protocol):
    """A toolbox that can tell what some of its calls would do."""

    async def preview(self, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Return `{"shows": "change" or "current", "result": JSON}`, None where nothing can be told.

        Must take no effect, and must look with the rights of the run alone. An `AppError` tells why
        there is none this time.
        """
        ...


async def preview_of(toolbox: object, call: ToolCall) -> dict[str, Any] | None:
    """Return what a call would do, `{"unavailable": reason}` if that failed, None if nobody can tell.

    A result longer than 16,384 characters of JSON becomes a text with its beginning, and `cut` is true.

    Raises:
        Unauthenticated: the rights of the run are gone.
    """
    if not isinstance(toolbox, Previewing):
        return None
    try:
        async with asyncio.timeout(MOST_SECONDS):
            shown = await toolbox.preview(call.name, call.read())
    except TimeoutError:
        return {"unavailable": f"timeout: it took longer than {MOST_SECONDS:g} seconds"}
    except Unauthenticated:
        raise
    except AppError as error:
        return {"unavailable": str(error)[:MOST_CHARS]}
    if shown is None:
        return None
    text = json.dumps(shown["result"], ensure_ascii=False)
    if len(text) <= MOST_CHARS:
        return shown
    return {**shown, "result": text[:MOST_CHARS], "cut": True}
