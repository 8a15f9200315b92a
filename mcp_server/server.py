"""The one MCP server: every declared tool, resource and prompt, behind the envelope."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from mcp.server._otel import (
    OpenTelemetryMiddleware,  # pyright: ignore[reportPrivateUsage]  to take it out
)
from mcp.server.extension import Extension
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.subscriptions import ListenHandler, SubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolResult,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    Resource,
    ResourceTemplate,
)
from mcp_types import Tool as WireTool
from opentelemetry import trace
from pydantic import AnyUrl

from mcp_server import __version__, policy
from mcp_server.agent_faces import AGENT_RUN, AgentTool, prompt_of, render_prompt
from mcp_server.auth.principal import Principal, current_principal
from mcp_server.boundary import failed_call, guard, protocol_error, unexpected
from mcp_server.declarations import Declared
from mcp_server.errors import AppError, ConfigurationError, NotFound
from mcp_server.invocation import Invocation, current_invocation
from mcp_server.long_tools import call_long
from mcp_server.operation import Operations
from mcp_server.plugins import Call
from mcp_server.prompts import prompt_failure, refuse_unknown
from mcp_server.request_state import state_security
from mcp_server.resource import DeclaredResource
from mcp_server.sendable import check_arguments
from mcp_server.services import Services
from mcp_server.tool import DeclaredTool

logger = logging.getLogger(__name__)

INSTRUCTIONS = (
    "Durable SQL, key-value, object, vector and agent storage of the caller's tenant. "
    "Tables live in the caller's own schema; stores, buckets and namespaces come into being on the first write."
)


class IsthmusServer(MCPServer[Any]):
    """The SDK's server with our declarations; every call and read is one operation."""

    def __init__(
        self,
        declared: Declared,
        services: Services,
        operation: Operations,
        *,
        secret: bytes,
        bus: SubscriptionBus,
        extensions: Sequence[Extension] = (),
    ) -> None:
        self._declared_tools = {tool.name: tool for tool in declared.tools}
        self._declared_resources = declared.resources
        self._services = services
        self._operation = operation
        super().__init__(
            "isthmus",
            title="Isthmus",
            version=__version__,
            instructions=INSTRUCTIONS,
            tools=list(self._declared_tools.values()),
            request_state_security=state_security(secret),
            subscriptions=bus,
            extensions=extensions,
            middleware=[guard],
        )
        # The SDK makes a handler of its own that nobody can close; this one ends its streams at shutdown.
        self.listeners = ListenHandler(bus)
        if not _is_tracing():
            # The SDK's spans cost a fifth of a call even when nobody collects them.
            self.middleware[:] = [
                item for item in self.middleware if not isinstance(item, OpenTelemetryMiddleware)
            ]
        for prompt in declared.prompts:
            self.add_prompt(prompt)

    @property
    def declared_tools(self) -> dict[str, DeclaredTool]:
        return self._declared_tools

    @property
    def declared_resources(self) -> list[DeclaredResource]:
        return self._declared_resources

    async def refuse_undeclared_tools(self) -> None:
        """Fail at start if a plugin's `setup` registered a tool or resource without a verb for policy.

        Raises:
            ConfigurationError: names it.
        """
        for tool in await super().list_tools():
            if tool.name not in self._declared_tools:
                raise ConfigurationError(
                    f"tool {tool.name!r} declares no verb; declare it with mcp_server.plugins.tool"
                )
        uris = [str(item.uri) for item in await super().list_resources()]
        for uri in (*uris, *(t.uri_template for t in await super().list_resource_templates())):
            raise ConfigurationError(
                f"resource {uri!r} declares no verb; declare it with mcp_server.plugins.resource"
            )

    async def list_tools(self) -> list[WireTool]:
        """Return the tools that this principal may call, in the order of their names."""
        principal = current_principal()
        tools = await super().list_tools()
        listed = [tool for tool in tools if self._may_call(principal, tool.name)]
        listed += [tool.wire() for tool in await self.agent_tools(principal)]
        return sorted(listed, key=lambda tool: tool.name)

    async def agent_tools(self, principal: Principal) -> list[AgentTool]:
        """Return the agents that are tools to a principal, in the order of their names.

        Raises:
            Unavailable: that cannot be known now.
        """
        run = self._declared_tools.get(AGENT_RUN)
        if run is None:
            return []
        shown = [
            AgentTool(item, run) for item in await self._services.agents.shown(principal, "tool")
        ]
        return [tool for tool in shown if tool.name not in self._declared_tools]

    def _may_call(self, principal: Principal, name: str) -> bool:
        # A tool that a plugin adds later declares no verb, so nobody may call it.
        tool = self._declared_tools.get(name)
        return tool is not None and policy.allows(principal, tool.verb, f"tool://{name}")

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Run one tool as one operation.

        Raises:
            MCPError: the tool is unknown (-32602) or the caller's rate is used up (-32029).
        """
        tool = self._declared_tools.get(name) or await self._agent_tool(name)
        if tool is None:
            raise await self._unknown(f"Unknown tool: {name}")
        invocation = current_invocation()
        try:
            if isinstance(tool, DeclaredTool) and tool.long and invocation.run is None:
                return await call_long(self._services, tool, arguments, invocation, context)
            return await self._work(tool, arguments, invocation, context)
        except MCPError:
            raise
        except AppError as error:
            return failed_call(error)
        except BaseException as error:  # noqa: BLE001  a tool may even call sys.exit; it is logged
            if isinstance(error, ToolError) and not isinstance(error, UnexpectedToolError):
                return failed_call(error)
            return failed_call(unexpected(name, error))

    async def _agent_tool(self, name: str) -> AgentTool | None:
        run = self._declared_tools.get(AGENT_RUN)
        agent = await self._services.agents.behind(current_principal(), name, "tool")
        return None if agent is None or run is None else AgentTool(agent, run)

    async def _work(
        self,
        tool: DeclaredTool | AgentTool,
        arguments: dict[str, Any],
        invocation: Invocation,
        context: Context[Any, Any] | None,
    ) -> CallToolResult | InputRequiredResult:
        principal = current_principal()
        async with self._operation(
            principal,
            tool.verb,
            f"tool://{tool.name}",
            key=invocation.key,
            deadline=invocation.deadline,
            egress=tool.egress,
            metered=invocation.metered,
        ):
            check_arguments(arguments)
            key, deadline = invocation.key, invocation.deadline
            call = Call(
                *(principal, self._services, key, deadline, context, invocation.run),
                detached=invocation.detached,
                by_model=invocation.by_model,
            )
            return await tool.execute(arguments, call)

    async def list_resources(self) -> list[Resource]:
        """Return the resources with a fixed URI."""
        return [item.as_resource() for item in self._declared_resources if not item.is_template]

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        """Return the resource templates."""
        return [item.as_template() for item in self._declared_resources if item.is_template]

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read one resource as one operation.

        Raises:
            MCPError: -32602 with the URI if there is no such thing, -32029 over the rate.
        """
        wanted = str(uri)
        invocation = current_invocation()
        try:
            item, arguments = await self._find_resource(wanted)
            principal = current_principal()
            call = Call(principal, self._services, None, invocation.deadline, context)
            async with self._operation(
                principal,
                item.verb,
                wanted,
                deadline=invocation.deadline,
                metered=invocation.metered,
            ):
                return await item.read(arguments, call)
        except MCPError:
            raise
        except BaseException as error:
            known = isinstance(error, AppError)
            failure = error if known else unexpected(f"reading {wanted[:200]}", error)
            raise protocol_error(failure, {"uri": wanted}) from error

    async def _find_resource(self, uri: str) -> tuple[DeclaredResource, dict[str, Any]]:
        for item in self._declared_resources:
            arguments = item.match(uri)
            if arguments is not None:
                return item, arguments
        await self._count()
        raise NotFound(f"resource {uri[:200]!r} does not exist")

    async def _unknown(self, message: str) -> MCPError:
        await self._count()
        return MCPError(code=INVALID_PARAMS, message=message)

    async def _count(self) -> None:
        """Count a request that asks for what is not there: it opens no operation."""
        if not current_invocation().metered:
            return
        try:
            await self._operation.meter(current_principal())
        except AppError as error:
            raise protocol_error(error) from error

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Any, Any] | None = None,
    ) -> GetPromptResult | InputRequiredResult:
        """Render one prompt as one operation.

        Raises:
            MCPError: -32602 if the prompt is unknown.
            AppError: its arguments do not fit, or it failed.
        """
        principal, metered = current_principal(), current_invocation().metered
        prompts = {prompt.name: prompt for prompt in await super().list_prompts()}
        agents = self._services.agents
        agent = None if name in prompts else await agents.behind(principal, name, "prompt")
        if name not in prompts and agent is None:
            raise await self._unknown(f"Unknown prompt: {name}")
        try:
            async with self._operation(principal, "read", f"prompt://{name}", metered=metered):
                if agent is not None:
                    return render_prompt(
                        await agents.get(principal, agent["name"]), arguments or {}
                    )
                refuse_unknown(prompts[name], arguments or {})
                return await super().get_prompt(name, arguments, context)
        except ValueError as error:  # the SDK's word for whatever went wrong
            raise prompt_failure(name, error) from error

    async def list_prompts(self) -> list[Prompt]:
        """Return the declared prompts, and those of agents that this principal may read."""
        listed = {prompt.name: prompt for prompt in await super().list_prompts()}
        agents = await self._services.agents.shown(current_principal(), "prompt")
        return [*({prompt_of(agent).name: prompt_of(agent) for agent in agents} | listed).values()]


def _is_tracing() -> bool:
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
