"""What goes wrong with a prompt, in words for its caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_types import Prompt

from mcp_server.boundary import unexpected
from mcp_server.errors import AppError, InvalidInput


def refuse_unknown(prompt: Prompt, arguments: Mapping[str, Any]) -> None:
    """Return if a prompt has each of the arguments.

    Raises:
        InvalidInput: it has one of them not.
    """
    known = [argument.name for argument in prompt.arguments or ()]
    for name in arguments:
        if name not in known:
            raise InvalidInput(
                f"{name}: prompt {prompt.name} has no such argument; it takes "
                f"{', '.join(known) or 'none'}",
                param=name,
            )


def prompt_failure(name: str, error: ValueError) -> AppError:
    """Return what went wrong when the SDK, whose word for it is a ValueError, rendered a prompt."""
    rendering = error.__cause__
    inside = None if rendering is None else rendering.__cause__
    if inside is None:
        return InvalidInput(f"prompt {name}: {error}")
    return inside if isinstance(inside, AppError) else unexpected(f"prompt {name}", inside)
