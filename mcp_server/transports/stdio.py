"""MCP over this process's stdin and stdout, as the local owner."""

from __future__ import annotations

from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from mcp.server.runner import serve_dual_era_loop
from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError

from mcp_server.auth.principal import OWNER, acting_as
from mcp_server.server import IsthmusServer

Item = SessionMessage | Exception


async def serve_stdio(server: IsthmusServer) -> None:
    """Serve until the client closes our stdin."""
    lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  `run` would open its lifespan again
    state: dict[str, Any] = {}
    with acting_as(OWNER):
        async with stdio_server() as (incoming, outgoing), anyio.create_task_group() as tasks:
            forward, messages = anyio.create_memory_object_stream[Item](0)
            tasks.start_soon(_answer_what_is_no_message, incoming, forward, outgoing)
            await serve_dual_era_loop(lowlevel, messages, outgoing, lifespan_state=state)
            tasks.cancel_scope.cancel()


async def _answer_what_is_no_message(
    incoming: ReadStream[Item],
    forward: MemoryObjectSendStream[Item],
    outgoing: WriteStream[SessionMessage],
) -> None:
    """Pass messages on, and answer a line that is none: the SDK would drop it without a word."""
    async with forward:
        async for item in incoming:
            if isinstance(item, SessionMessage):
                await forward.send(item)
            elif (error := _refusal(item)) is not None:
                answer = JSONRPCError(jsonrpc="2.0", id=None, error=error)
                await outgoing.send(SessionMessage(answer))


def _refusal(failure: Exception) -> ErrorData | None:
    """Return the error that a line deserves; an empty one deserves none."""
    details = failure.errors()[0] if isinstance(failure, ValidationError) else None
    if details is None or details["type"] != "json_invalid":
        return ErrorData(code=INVALID_REQUEST, message="the line is no JSON-RPC 2.0 message")
    if not str(details["input"]).strip():
        return None
    return ErrorData(code=PARSE_ERROR, message=f"the line is not JSON: {details['msg']}")
