"""The variables of an agent's instructions, which OpenAI's API can carry in metadata only: `variable.NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mcp_server.errors import InvalidInput

_PREFIX = "variable."


def variables_of(body: Mapping[str, Any]) -> dict[str, str]:
    """Give the variables in the metadata of a checked body, by their names."""
    return {name.removeprefix(_PREFIX): text for name, text in _metadata(body).items() if _is(name)}


def variable_metadata(body: Mapping[str, Any]) -> dict[str, str]:
    """Give what of a body's metadata is variables."""
    return {name: text for name, text in _metadata(body).items() if _is(name)}


def refused_variables(error: InvalidInput) -> InvalidInput:
    """Tell what is wrong with the variables of a run in the words of the wire."""
    how = f'give each in metadata, as {{"{_PREFIX}NAME": "its text"}}'
    return InvalidInput(f"{error.message}; {how}", param="metadata")


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    return cast("dict[str, str]", body.get("metadata") or {})


def _is(name: str) -> bool:
    return name.startswith(_PREFIX)
