"""What a run of an agent begins with: the definition with its instructions filled in, and the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcp_server.agents.variables import fill, variable_values
from mcp_server.services.agent_items import AgentItem


def begin_with(
    agent: AgentItem,
    messages: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
    said: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return a run's `definition` and `input` of `messages`, `options`, `variables` and what else is `said`.

    The instructions are filled in here, once: every attempt at the run reads the same text.

    Raises:
        InvalidInput: a variable is unknown, missing or too long.
    """
    values = variable_values(agent["variables"], variables)
    return {
        "definition": {**agent, "instructions": fill(agent["instructions"], values)},
        "input": {
            "messages": list(messages),
            "options": dict(options or {}),
            "variables": values,
            "said": said,
        },
    }
