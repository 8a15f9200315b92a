"""Calls of long tools: a durable run behind each, shown to a client that knows no runs as its result."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import anyio
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, TextContent

from mcp_server.auth.principal import current_principal
from mcp_server.invocation import Invocation
from mcp_server.runs.fence import is_step
from mcp_server.sendable import check_arguments
from mcp_server.services import Services
from mcp_server.services.run_results import RunItem, RunResult
from mcp_server.services.runs import RunTerms
from mcp_server.services.tool_work import wire_result
from mcp_server.tool import DeclaredTool


async def start_long(
    services: Services,
    tool: DeclaredTool,
    arguments: dict[str, Any],
    invocation: Invocation,
    terms: RunTerms,
) -> RunItem:
    """Start a run of a long tool for the current principal, and return at once.

    Raises:
        InvalidInput: the arguments do not fit. AppError: what `RunService.start_tool` raises.
    """
    return await services.runs.start_tool(
        current_principal(),
        tool.name,
        arguments,
        verb=tool.verb,
        egress=tool.egress,
        metered=invocation.metered,
        key=invocation.key,
        check=lambda: _check(tool, arguments),
        **terms,
    )


async def call_long(
    services: Services,
    tool: DeclaredTool,
    arguments: dict[str, Any],
    invocation: Invocation,
    context: Context[Any, Any] | None,
) -> CallToolResult:
    """Run a long tool and wait for it, passing its progress on; a caller that leaves cancels the run.

    A detached call only starts it: its result is a `RunResult`.

    A run that asks something goes on waiting: the result is then an error that tells how to answer.

    Raises:
        InvalidInput: the arguments do not fit. AppError: what `RunService.start_tool` and `attend` raise.
    """
    if invocation.detached:
        return _started(await start_long(services, tool, arguments, invocation, {}))
    told = float("-inf")

    async def tell(event: dict[str, Any]) -> None:
        nonlocal told
        # A run that is tried again begins anew, and a client is told of growing progress only.
        if event["type"] == "progress" and context is not None and event["done"] > told:
            told = event["done"]
            await context.report_progress(event["done"], event["total"], event["message"])

    run = await _unbroken(start_long(services, tool, arguments, invocation, {}))
    done = await services.runs.attend(
        current_principal(),
        run["run"],
        deadline=invocation.deadline,
        inside=is_step(invocation.key),
        on_event=tell,
    )
    return tool_result(done)


def tool_result(run: RunItem) -> CallToolResult:
    """Return the result of the call that a run stands for, as if the tool had run inline."""
    if run["status"] == "completed":
        return CallToolResult.model_validate(wire_result(run["output"]))
    request, error = run["request"], run["error"]
    if request is not None:
        text = (
            f"conflict: run {run['run']} waits for input: {request['message']}; "
            "answer it with run_input"
        )
    elif error is not None:
        text = f"{error['code']}: {error['message']}"
    else:
        text = f"conflict: run {run['run']} is {run['status']}; run_get tells more"
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def _started(run: RunItem) -> CallToolResult:
    shown = RunResult(run=run["run"], status=run["status"], output=None, error=run["error"])
    text = f"run {run['run']} is {run['status']}; run_get tells what becomes of it"
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=shown)


async def _unbroken(starting: Awaitable[RunItem]) -> RunItem:
    """Wait also if the caller leaves: a start cut in the middle would leave a run that nobody stops."""
    with anyio.CancelScope(shield=True):
        return await starting
    raise AssertionError("a shield holds nothing back")


def _check(tool: DeclaredTool, arguments: dict[str, Any]) -> None:
    check_arguments(arguments)
    tool.check(arguments)
