"""What the plugin files declare, built and checked before any engine opens."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mcp.server.mcpserver.prompts import Prompt

from mcp_server.errors import ConfigurationError
from mcp_server.plugins import (
    AsyncFunction,
    Plugins,
    PromptDeclaration,
    ResourceDeclaration,
    ToolDeclaration,
)
from mcp_server.resource import DeclaredResource
from mcp_server.services.agent_checks import Taken
from mcp_server.tool import DeclaredTool

D = TypeVar("D", ToolDeclaration, ResourceDeclaration, PromptDeclaration)
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Declared:
    """Everything that the MCP server offers."""

    tools: list[DeclaredTool]
    resources: list[DeclaredResource]
    prompts: list[Prompt]

    @property
    def names(self) -> Taken:
        """Return the names of the tools and prompts, which nothing else can have."""
        return Taken(
            frozenset(tool.name for tool in self.tools),
            frozenset(prompt.name for prompt in self.prompts),
        )


def declare(plugins: Plugins) -> Declared:
    """Build what was declared.

    Raises:
        ConfigurationError: a function does not fit its declaration; names its file.
    """
    return Declared(
        [_build(item, DeclaredTool.declare) for item in plugins.tools],
        [_build(item, DeclaredResource.declare) for item in plugins.resources],
        [
            _build(item, lambda declared: Prompt.from_function(declared.fn))
            for item in plugins.prompts
        ],
    )


def _build(declaration: D, build: Callable[[D], B]) -> B:
    fn = declaration.fn
    try:
        _check_function(fn)
        return build(declaration)
    except Exception as error:
        # Plugins are foreign code: pydantic, the SDK and Python itself each have words for what is wrong.
        reason = " ".join(str(error).split()) or type(error).__name__
        where = f"plugin {inspect.getsourcefile(fn)}: {getattr(fn, '__name__', fn)}"
        raise ConfigurationError(f"{where}: {reason}") from error


def _check_function(fn: AsyncFunction) -> None:
    if not inspect.iscoroutinefunction(fn):
        raise TypeError("it is not an async function; write `async def`")
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise TypeError(f"*{parameter.name} has no schema; name each argument")
