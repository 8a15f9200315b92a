"""Read which functions a chat request lets the model call, and whether it must call one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from mcp_server.errors import InvalidInput
from mcp_server.llm import ChatRequest
from mcp_server.llm.wire import list_of, object_of

Mode = Literal["none", "auto", "required"]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`functions` are the OpenAI function objects that may be called; empty exactly if mode is none."""

    mode: Mode
    functions: tuple[dict[str, Any], ...]


_NO_TOOLS = ToolChoice("none", ())


def read_tool_choice(request: ChatRequest) -> ToolChoice:
    """Read `tools` and `tool_choice`: none, auto, required, a named function, or allowed_tools.

    A named function is mode required with that one function. Tools that are not functions are
    left out. Raises InvalidInput if the choice is malformed or names a function that is not offered.
    """
    offered = _functions(request.get("tools"))
    choice: object = request.get("tool_choice")
    if choice is None:
        choice = "auto"
    if isinstance(choice, str):
        return _by_mode(choice, offered)
    if not isinstance(choice, dict):
        raise InvalidInput(
            "tool_choice must be 'none', 'auto', 'required' or an object.", param="tool_choice"
        )
    named = object_of(cast("object", choice))
    kind = named.get("type")
    if kind == "function":
        return ToolChoice("required", (_find(named, offered),))
    if kind == "allowed_tools":
        allowed = object_of(named.get("allowed_tools")) or named
        chosen = tuple(_find(object_of(each), offered) for each in list_of(allowed.get("tools")))
        return _by_mode(str(allowed.get("mode", "auto")), chosen)
    raise InvalidInput(
        f"tool_choice.type {kind!r} is not supported: use function or allowed_tools.",
        param="tool_choice",
    )


def _by_mode(mode: str, functions: tuple[dict[str, Any], ...]) -> ToolChoice:
    if mode not in {"none", "auto", "required"}:
        raise InvalidInput(
            f"tool_choice {mode!r} is unknown: use none, auto, required or a function.",
            param="tool_choice",
        )
    if mode == "required" and not functions:
        raise InvalidInput(
            "tool_choice 'required' needs at least one function in tools.", param="tool_choice"
        )
    return ToolChoice(cast("Mode", mode), functions) if functions and mode != "none" else _NO_TOOLS


def _functions(tools: object) -> tuple[dict[str, Any], ...]:
    offered = [object_of(object_of(tool).get("function")) for tool in list_of(tools)]
    return tuple(function for function in offered if isinstance(function.get("name"), str))


def _find(choice: Mapping[str, Any], functions: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    name = (object_of(choice.get("function")) or choice).get("name")
    for function in functions:
        if function["name"] == name:
            return function
    raise InvalidInput(
        f"tool_choice names {name!r}, which is not among tools.", param="tool_choice"
    )
