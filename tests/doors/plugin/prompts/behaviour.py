"""Prompts and completions that behave as none should."""

from __future__ import annotations

from mcp_types import CompletionArgument, CompletionContext

from mcp_server.errors import Conflict
from mcp_server.plugins import complete, prompt


@prompt()
async def odd_prompt(kind: str) -> str:
    """Fail, or say what no prompt should say."""
    match kind:
        case "raise":
            raise RuntimeError("the inside of the server")
        case "refuse":
            raise Conflict("as announced")
        case "exit":
            raise SystemExit("the inside of the server")
        case "surrogate":
            return "\ud800"
        case _:
            return f"{kind} is fine"


@complete("odd_prompt")
async def kinds(argument: CompletionArgument, context: CompletionContext | None) -> list[str]:
    del context
    if argument.value == "raise":
        raise RuntimeError("the inside of the server")
    return ["raise", "refuse", "exit", "surrogate"]
