"""The tools of a chat request and which of them the model may choose, in today's and the old form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from openai_facade.wire.faults import InvalidRequest, invalid, unsupported, wrong_type
from openai_facade.wire.fields import as_array, as_object, as_string, boolean, one_of, required
from openai_facade.wire.fields import required_string as named

FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_MOST_TOOLS = 128


def check_tools(body: Mapping[str, Any]) -> None:
    """Check `tools`, `tool_choice`, and the old `functions` and `function_call` of a chat.

    Raises:
        InvalidRequest: names the place, what is wrong and what would fit.
    """
    tools, functions = body.get("tools"), body.get("functions")
    if tools is not None and functions is not None:
        raise unsupported("functions", "declare them in 'tools' when tools are used too.")
    if tools is not None:
        _tools("tools", tools)
    if functions is not None:
        for index, function in enumerate(_bounded("functions", functions)):
            _function(f"functions[{index}]", as_object(f"functions[{index}]", function))
    choice, call = body.get("tool_choice"), body.get("function_call")
    if choice is not None:
        _tool_choice("tool_choice", choice)
    if call is not None:
        _function_call("function_call", call, cast("list[dict[str, Any]]", functions or []))


def require_offered(body: Mapping[str, Any]) -> None:
    """Refuse a choice of tools that the request does not offer, where this server adds none.

    Raises:
        InvalidRequest: names the tool.
    """
    choice: Any = body.get("tool_choice")
    if not isinstance(choice, dict):
        return
    fields = cast("dict[str, Any]", choice)
    named_tools = [("tool_choice", fields)]
    if fields["type"] == "allowed_tools":
        place = "tool_choice.allowed_tools.tools"
        chosen: list[dict[str, Any]] = fields["allowed_tools"]["tools"]
        named_tools = [(f"{place}[{index}]", tool) for index, tool in enumerate(chosen)]
    tools = cast("list[dict[str, Any]]", body.get("tools") or [])
    offered = {(tool["type"], tool[tool["type"]]["name"]) for tool in tools}
    for place, tool in named_tools:
        kind: str = tool["type"]
        if kind == "mcp":
            raise invalid(f"{place}.type", "'mcp' needs tools of this server in 'tools'.")
        if (kind, tool[kind]["name"]) not in offered:
            raise invalid(f"{place}.{kind}.name", f"{tool[kind]['name']!r} is none of 'tools'.")


def _bounded(place: str, value: object) -> list[Any]:
    items = as_array(place, value)
    if len(items) > _MOST_TOOLS:
        raise InvalidRequest(
            f"Invalid '{place}': array too long. Expected at most {_MOST_TOOLS} items, but got "
            f"{len(items)} instead.",
            param=place,
            wire_code="array_above_max_length",
        )
    return items


def _tools(place: str, tools: object) -> None:
    for index, tool in enumerate(_bounded(place, tools)):
        here = f"{place}[{index}]"
        fields = as_object(here, tool)
        kind = named(fields, "type", here)
        if kind in _NAMED_TOOLS:
            inner = f"{here}.{kind}"
            _NAMED_TOOLS[kind](inner, as_object(inner, required(fields, kind, inner)))
        elif kind != "mcp":
            raise unsupported(
                f"{here}.type", f"{kind!r}. Supported values are: 'function', 'custom', 'mcp'."
            )


def _custom(here: str, custom: dict[str, Any]) -> None:
    _function_name(here, custom)
    if custom.get("description") is not None:
        as_string(f"{here}.description", custom["description"])
    if custom.get("format") is None:
        return
    form = as_object(f"{here}.format", custom["format"])
    kind = required(form, "type", f"{here}.format.type")
    one_of(("text", "grammar"))(f"{here}.format.type", kind)
    if kind == "grammar":
        inner = f"{here}.format.grammar"
        grammar = as_object(inner, required(form, "grammar", inner))
        named(grammar, "definition", inner)
        one_of(("lark", "regex"))(f"{inner}.syntax", required(grammar, "syntax", f"{inner}.syntax"))


def _function(here: str, function: dict[str, Any]) -> None:
    _function_name(here, function)
    if function.get("description") is not None:
        as_string(f"{here}.description", function["description"])
    if function.get("parameters") is not None:
        as_object(f"{here}.parameters", function["parameters"])
    if function.get("strict") is not None:
        boolean(f"{here}.strict", function["strict"])


def _function_name(here: str, tool: dict[str, Any]) -> None:
    name = named(tool, "name", here)
    if not FUNCTION_NAME.match(name):
        raise invalid(
            f"{here}.name", f"{name!r} does not match the pattern '^[a-zA-Z0-9_-]{{1,64}}$'."
        )


def _tool_choice(place: str, choice: object) -> None:
    if isinstance(choice, str):
        one_of(("none", "auto", "required"))(place, choice)
        return
    if not isinstance(choice, dict):
        raise wrong_type(place, "a string or an object", choice)
    fields = cast("dict[str, Any]", choice)
    kind = named(fields, "type", place)
    if kind == "allowed_tools":
        _allowed_tools(f"{place}.allowed_tools", fields)
    elif kind in _NAMED_TOOLS:
        _chosen(place, fields, kind)
    elif kind != "mcp":
        raise unsupported(
            f"{place}.type",
            f"{kind!r}. Supported values are: 'function', 'custom', 'mcp', 'allowed_tools'.",
        )


def _allowed_tools(place: str, choice: dict[str, Any]) -> None:
    allowed = as_object(place, required(choice, "allowed_tools", place))
    one_of(("auto", "required"))(f"{place}.mode", required(allowed, "mode", f"{place}.mode"))
    tools = required(allowed, "tools", f"{place}.tools")
    for index, tool in enumerate(as_array(f"{place}.tools", tools)):
        here = f"{place}.tools[{index}]"
        fields = as_object(here, tool)
        kind = named(fields, "type", here)
        if kind in _NAMED_TOOLS:
            _chosen(here, fields, kind)
        elif kind != "mcp":
            raise unsupported(
                f"{here}.type", f"{kind!r}. Supported values are: 'function', 'custom', 'mcp'."
            )


def _chosen(place: str, choice: dict[str, Any], kind: str) -> None:
    here = f"{place}.{kind}"
    named(as_object(here, required(choice, kind, here)), "name", here)


def _function_call(place: str, call: object, functions: list[dict[str, Any]]) -> None:
    if isinstance(call, str):
        one_of(("none", "auto"))(place, call)
        return
    if not isinstance(call, dict):
        raise wrong_type(place, "a string or an object", call)
    name = named(cast("dict[str, Any]", call), "name", place)
    if all(function["name"] != name for function in functions):
        raise invalid(f"{place}.name", f"{name!r} is none of 'functions'.")


_NAMED_TOOLS: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "function": _function,
    "custom": _custom,
}
