"""Completion of arguments: the declared functions, the variables of agents' prompts, and nothing for all else."""

from __future__ import annotations

import inspect
import typing

from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from mcp_server.auth.principal import current_principal
from mcp_server.function_names import agent_face
from mcp_server.plugins import AsyncFunction, Call, CompletionDeclaration
from mcp_server.server import IsthmusServer
from mcp_server.services import Services

# The protocol's ceiling for one answer.
MOST_VALUES = 100


def add_completions(
    server: IsthmusServer, services: Services, declared: list[CompletionDeclaration]
) -> None:
    """Serve completion/complete from the declared functions, by prompt name or resource template."""
    functions = {item.ref: item.fn for item in declared}

    @server.completion()
    async def complete(  # pyright: ignore[reportUnusedFunction]  the decorator registers it
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        name = ref.name if isinstance(ref, PromptReference) else str(ref.uri)
        function = functions.get(name)
        if function is not None:
            call = Call(current_principal(), services)
            values = list(await function(argument, context, **_injected(function, call)))
        elif isinstance(ref, PromptReference):
            values = await _variable(services, name, argument)
        else:
            values = []
        return Completion(
            values=values[:MOST_VALUES], total=len(values), has_more=len(values) > MOST_VALUES
        )


def _injected(function: AsyncFunction, call: Call) -> dict[str, Call]:
    """Return the argument that gets the call, if the function has one."""
    hints = typing.get_type_hints(function)
    return {name: call for name in inspect.signature(function).parameters if hints[name] is Call}


async def _variable(services: Services, prompt: str, argument: CompletionArgument) -> list[str]:
    """Return the default text of a variable, if an agent that the caller may read has the prompt."""
    shown = await services.agents.shown(current_principal(), "prompt")
    for agent in shown:
        text = agent["variables"].get(argument.name) if prompt == agent_face(agent["name"]) else ""
        if text and text.startswith(argument.value):
            return [text]
    return []
