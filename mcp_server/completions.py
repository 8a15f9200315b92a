"""Completion of arguments: the declared functions, and an empty answer where none is declared."""

from __future__ import annotations

from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from mcp_server.plugins import CompletionDeclaration
from mcp_server.server import IsthmusServer

# The protocol's ceiling for one answer.
MOST_VALUES = 100


def add_completions(server: IsthmusServer, declared: list[CompletionDeclaration]) -> None:
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
        values: list[str] = [] if function is None else list(await function(argument, context))
        return Completion(
            values=values[:MOST_VALUES], total=len(values), has_more=len(values) > MOST_VALUES
        )
