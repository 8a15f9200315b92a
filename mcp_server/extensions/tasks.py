"""The MCP Tasks extension: calls that become runs, and the methods by which a client gets, answers and cancels them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, cast

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding, RequestHandler
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_METHOD_HEADER, MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.requests import Request

from mcp_server.auth.principal import Principal, current_principal
from mcp_server.elicitation.client import put_answer
from mcp_server.elicitation.forms import questions, read_response
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.extensions.tasks_wire import EXTENSION, show_created, show_task
from mcp_server.function_names import agent_of_face
from mcp_server.invocation import detaching
from mcp_server.operation import Operations
from mcp_server.services.runs import RunService
from mcp_server.tool import DeclaredTool

RequestContext: TypeAlias = ServerRequestContext[Any, Any]

_ACKNOWLEDGED: dict[str, Any] = {"resultType": "complete"}
_SHOWN = 80


class TaskParams(RequestParams):
    """What each method takes. Of any type here: what is wrong with it is told by its name, in our words."""

    task_id: Any = None
    input_responses: Any = None


Handler: TypeAlias = Callable[[Principal, str, TaskParams], Awaitable[dict[str, Any]]]


class TasksExtension(Extension):
    """`io.modelcontextprotocol/tasks` on the rows of the run engine: a task's id is its run's.

    Only the 2026-07-28 era has it. A client of that era that declares it is answered at once, with a
    task, when its call starts a run; for all others nothing changes.
    """

    identifier = EXTENSION

    def __init__(
        self, operation: Operations, runs: RunService, tools: Sequence[DeclaredTool]
    ) -> None:
        self._operation = operation
        self._runs = runs
        self._declared = {tool.name: tool.long or tool.starts_run for tool in tools}

    def methods(self) -> Sequence[MethodBinding]:
        handlers: dict[str, Handler] = {
            "tasks/get": self._get,
            "tasks/update": self._update,
            "tasks/cancel": self._cancel,
        }
        eras = frozenset(MODERN_PROTOCOL_VERSIONS)
        return [
            MethodBinding(method, TaskParams, self._serving(handler), eras)
            for method, handler in handlers.items()
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: RequestContext, call_next: CallNext
    ) -> HandlerResult:
        """Answer a call that started a run with the run's task."""
        if not self._starts_run(params.name) or not takes_tasks(ctx):
            return await call_next(ctx)
        with detaching():
            result = await call_next(ctx)
        run = _started(result)
        if run is None:
            return result
        return show_created(await self._runs.get(current_principal(), run))

    def _starts_run(self, tool: str) -> bool:
        """Tell whether a call of the tool may start a run: a declared one's, or an agent's."""
        return self._declared.get(tool, agent_of_face(tool) is not None)

    def _serving(self, handler: Handler) -> RequestHandler:
        async def serve(ctx: RequestContext, params: TaskParams) -> dict[str, Any]:
            task = params.task_id
            _check_name(ctx, task)
            principal = current_principal()
            await self._operation.meter(principal)  # first: what is refused is a request as well
            require_tasks(ctx)
            if not isinstance(task, str):
                raise InvalidInput("taskId: send the id of a task, as a string", param="taskId")
            try:
                return await handler(principal, task, params)
            except NotFound as error:
                raise MCPError(INVALID_PARAMS, f"not_found: {_no_task(task)}") from error

        return serve

    async def _get(self, principal: Principal, task: str, _: TaskParams) -> dict[str, Any]:
        return show_task(await self._runs.get(principal, task))

    async def _update(self, principal: Principal, task: str, params: TaskParams) -> dict[str, Any]:
        """Take the answers to what is still open; others come too late, or were never asked for."""
        given: Any = params.input_responses
        if not isinstance(given, dict):
            raise InvalidInput(
                "inputResponses: send an object with an answer for each key of inputRequests",
                param="inputResponses",
            )
        responses = cast("dict[str, Any]", given)
        run = await self._runs.get(principal, task)
        asked = [] if run["request"] is None else questions(run["request"])
        answers = [
            (item, read_response(item, responses[item.key]))
            for item in asked
            if item.key in responses
        ]
        for question, told in answers:
            await put_answer(self._runs, principal, task, question, told)
        return dict(_ACKNOWLEDGED)

    async def _cancel(self, principal: Principal, task: str, _: TaskParams) -> dict[str, Any]:
        await self._runs.cancel(principal, task)
        return dict(_ACKNOWLEDGED)


def takes_tasks(ctx: RequestContext) -> bool:
    """Tell whether the client declared the extension in this very request."""
    capabilities = ctx.session.client_capabilities
    declared = capabilities.extensions if capabilities else None
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and EXTENSION in (declared or {})


def require_tasks(ctx: RequestContext) -> None:
    """Refuse a client that did not declare the extension.

    Raises:
        MCPError: -32021, naming the extension in `requiredCapabilities`.
    """
    require_client_extension(ctx, EXTENSION)


def _started(result: HandlerResult) -> str | None:
    """Return the run that a call has started, None if it answered otherwise."""
    if not isinstance(result, CallToolResult) or result.is_error:
        return None
    shown: Any = result.structured_content
    return cast("dict[str, Any]", shown).get("run") if isinstance(shown, dict) else None


def _check_name(ctx: RequestContext, task: Any) -> None:
    """Hold the routing header against the task: the SDK knows only the methods of the core.

    A request over Streamable HTTP has passed the SDK's check that it names its method in a header; other
    transports have no such headers.

    Raises:
        MCPError: -32020, they differ.
    """
    request = ctx.request
    if not isinstance(request, Request) or MCP_METHOD_HEADER not in request.headers:
        return
    if isinstance(task, str) and decode_header_value(request.headers.get(MCP_NAME_HEADER)) != task:
        message = f"{MCP_NAME_HEADER} header does not match the request body's 'taskId' parameter"
        raise MCPError(HEADER_MISMATCH, message)


def _no_task(task: str) -> str:
    return f"task {task[:_SHOWN]!r} does not exist, or not any more"
