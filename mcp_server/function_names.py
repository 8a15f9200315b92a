"""Give MCP tools names that OpenAI's API, and so every model, allows."""

from __future__ import annotations

import hashlib
import re

_ALLOWED = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST = 64
_DIGEST = 10


def function_name(tool: str) -> str:
    """Give the function name of an MCP tool: its own name where OpenAI allows it.

    Otherwise forbidden characters become `_`, the name is cut, and a digest of the whole name is
    appended, so that the same tool has the same name in every request and no two share one.
    """
    if _ALLOWED.match(tool):
        return tool
    digest = hashlib.sha256(tool.encode()).hexdigest()[:_DIGEST]
    return f"{_FORBIDDEN.sub('_', tool)[: _LONGEST - _DIGEST - 1]}_{digest}"


SEARCH_FUNCTION = "search_documents"
"""The function with which an agent searches the stores of its definition."""


_FACE = "agent_"


def agent_face(agent: str) -> str:
    """Give the name under which an agent is shown, if its definition says so: as a tool, and as a prompt."""
    return _FACE + agent


def agent_of_face(name: str) -> str | None:
    """Give the agent that a tool or a prompt of this name would be, None if none can have it."""
    return name.removeprefix(_FACE) if name.startswith(_FACE) else None


def agent_function(agent: str) -> str:
    """Give the name of the function that runs an agent."""
    return function_name(agent_face(agent))
