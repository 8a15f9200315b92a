"""The variables of an agent's instructions: `{{name}}` in the text, filled once, when a run starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mcp_server.agents.definitions import MOST_INSTRUCTIONS
from mcp_server.errors import InvalidInput

_PLACE = re.compile(r"\{\{[ \t]*([A-Za-z_][A-Za-z0-9_]{0,63})[ \t]*\}\}")


def used_variables(instructions: str) -> list[str]:
    """Return the names that the text has places for, in their order; other braces are just text."""
    return list(dict.fromkeys(_PLACE.findall(instructions)))


def variable_values(
    declared: Mapping[str, str | None], given: Mapping[str, str] | None
) -> dict[str, str]:
    """Return the text of each declared variable: the given one, else its default.

    Raises:
        InvalidInput: one is given that is not declared, or one without a default is missing.
    """
    given = given or {}
    unknown = [name for name in given if name not in declared]
    if unknown:
        raise InvalidInput(
            f"variables: the agent has no {_shown(unknown)}; it has {_shown(declared) or 'none'}",
            param="variables",
        )
    missing = [name for name, text in declared.items() if text is None and name not in given]
    if missing:
        raise InvalidInput(
            f"variables: {_shown(missing)} must be given: the agent's instructions need it",
            param="variables",
        )
    return {name: given.get(name, text or "") for name, text in declared.items()}


def fill(instructions: str, values: Mapping[str, str]) -> str:
    """Return the instructions with the values in their places; what a value holds is never a place itself.

    Raises:
        InvalidInput: they would be longer than instructions may be.
    """
    filled = _PLACE.sub(lambda place: values.get(place[1], place[0]), instructions)
    if values and len(filled) > MOST_INSTRUCTIONS:
        raise InvalidInput(
            f"variables: filled in, the instructions have {len(filled)} characters; the most allowed "
            f"are {MOST_INSTRUCTIONS}: give long texts in the input",
            param="variables",
        )
    return filled


def variable_schemas(declared: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each variable as an argument."""
    return {
        name: {"type": "string"} if text is None else {"type": "string", "default": text}
        for name, text in declared.items()
    }


def required_variables(declared: Mapping[str, str | None]) -> list[str]:
    """Return the variables that each run must give."""
    return [name for name, text in declared.items() if text is None]


def _shown(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(names)
