"""Extensions are announced to clients of the era that has them, and to no others."""

from __future__ import annotations

from typing import Any, cast

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from mcp_server.server import IsthmusServer


def announce_to_modern_clients(server: IsthmusServer) -> None:
    """Keep the extensions out of what the handshake era's `initialize` announces.

    The SDK announces them in both eras, but a result of an extension's own type cannot be sent in the
    older one.
    """
    server.middleware.append(_hide)


async def _hide(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    result = await call_next(ctx)
    if ctx.method == "initialize" and isinstance(result, dict):
        capabilities = cast("dict[str, Any]", result["capabilities"])
        shown = {name: value for name, value in capabilities.items() if name != "extensions"}
        return {**result, "capabilities": shown}
    return result
