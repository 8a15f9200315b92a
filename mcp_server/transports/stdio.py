"""MCP over this process's stdin and stdout, as the local owner."""

from __future__ import annotations

import asyncio
import logging
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

logger = logging.getLogger(__name__)

Item = SessionMessage | Exception
# How long a stop waits for tools to clean up after themselves.
STOP_SECONDS = 3.0


class StdioConnection:
    """The one connection of this process."""

    def __init__(self, server: IsthmusServer) -> None:
        self._lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  `run` would open its lifespan again
        self._work = anyio.CancelScope()
        self._ended = asyncio.Event()

    async def serve(self) -> None:
        """Serve until the client closes our stdin."""
        try:
            with acting_as(OWNER):
                async with stdio_server() as (incoming, outgoing):
                    await self._serve(incoming, outgoing)
        except* OSError as gone:
            logger.info("the client no longer reads: %s", gone.exceptions[0])

    async def stop(self) -> None:
        """Cancel the work in progress and wait for its end.

        `serve` does not end by that: a thread of the SDK waits for the next line of stdin.
        """
        self._work.cancel()
        with anyio.move_on_after(STOP_SECONDS):
            await self._ended.wait()

    async def _serve(
        self, incoming: ReadStream[Item], outgoing: WriteStream[SessionMessage]
    ) -> None:
        state: dict[str, Any] = {}
        forward, messages = anyio.create_memory_object_stream[Item](0)
        try:
            with self._work:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_answer_what_is_no_message, incoming, forward, outgoing)
                    await serve_dual_era_loop(
                        self._lowlevel, messages, outgoing, lifespan_state=state
                    )
                    tasks.cancel_scope.cancel()
        finally:
            self._ended.set()


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
