"""The last word on every MCP message: failures leave as protocol errors, and only what every transport can carry."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, CallToolResult, TextContent
from pydantic import ValidationError

from mcp_server.errors import AppError, LimitExceeded, Unavailable
from mcp_server.sendable import obstacle
from mcp_server.tracing.places import read_traceparent, standing_in

logger = logging.getLogger(__name__)

RATE_LIMITED = -32029


async def guard(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Serve one message; a middleware of the MCP server.

    Without it the text of any exception reaches clients of the handshake era, a plugin that calls
    `sys.exit` ends the process, and a lone surrogate in a result ends the connection that carries it.
    """
    try:
        with standing_in(read_traceparent((ctx.meta or {}).get("traceparent"))):
            result = await call_next(ctx)
    except MCPError as error:
        raise _sendable(error) from error
    except ValidationError:
        raise
    except AppError as error:
        raise _sendable(protocol_error(error)) from error
    except BaseException as error:
        raise MCPError(code=INTERNAL_ERROR, message=str(unexpected(ctx.method, error))) from error
    if ctx.request_id is not None and (problem := obstacle(result)) is not None:
        logger.error("the answer to %s cannot be sent: %s", ctx.method, problem)
        message = str(Unavailable(f"the answer cannot be sent: {problem}"))
        raise MCPError(code=INTERNAL_ERROR, message=message)
    return result


def unexpected(what: str, error: BaseException) -> Unavailable:
    """Log a failure that was not announced, and return what a client may know of it.

    Raises:
        CancelledError: this task is being cancelled, and that goes on.
    """
    task = asyncio.current_task()
    if not isinstance(error, Exception) and task is not None and task.cancelling():
        _go_on(error)
    logger.error("%s failed", what, exc_info=error)
    return Unavailable(f"{what} failed unexpectedly; the server's log says why")


def _go_on(error: BaseException) -> NoReturn:
    if isinstance(error, asyncio.CancelledError):
        raise error
    raise asyncio.CancelledError from error


def protocol_error(error: AppError, data: dict[str, Any] | None = None) -> MCPError:
    """Return an anticipated failure as JSON-RPC has it.

    A used-up rate has a code of its own, so that clients wait instead of asking the model.
    """
    if isinstance(error, LimitExceeded) and error.retry_after is not None:
        wait = {"retry_after_seconds": round(error.retry_after, 3)}
        return MCPError(code=RATE_LIMITED, message=error.message, data=wait)
    code = INVALID_PARAMS if error.status < 500 else INTERNAL_ERROR
    return MCPError(code=code, message=str(error), data=data)


def _sendable(error: MCPError) -> MCPError:
    """Return the error as it can be sent: it may quote what nobody can encode."""
    message = error.error.message.encode("utf-8", "backslashreplace").decode()
    data = None if obstacle(error.error.data) is not None else error.error.data
    if message == error.error.message and data is error.error.data:
        return error
    return MCPError(code=error.error.code, message=message, data=data)


def failed_call(error: Exception) -> CallToolResult:
    """Return a failure that the model shall read.

    Raises:
        MCPError: the caller's rate is used up, which is the protocol's own error.
    """
    if isinstance(error, AppError) and (wire := protocol_error(error)).error.code == RATE_LIMITED:
        raise wire from error
    return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
