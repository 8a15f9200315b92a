"""Custom tools, which take a text, as functions with one argument, and calls of them back again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from mcp_server.errors import InvalidInput
from mcp_server.llm import ChatRequest
from mcp_server.llm.wire import list_of, object_of, value_of

INPUT = "input"

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {INPUT: {"type": "string"}},
    "required": [INPUT],
    "additionalProperties": False,
}


def as_functions(request: ChatRequest) -> tuple[ChatRequest, frozenset[str]]:
    """Give the request with functions for its custom tools, and their names; it is not changed.

    Raises:
        InvalidInput: the input of one must follow a grammar, which a function's argument cannot.
    """
    tools = [object_of(tool) for tool in list_of(request.get("tools"))]
    names = frozenset(
        str(object_of(tool.get("custom")).get("name"))
        for tool in tools
        if tool.get("type") == "custom"
    )
    if not names:
        return request, names
    made = dict(request)
    made["tools"] = [_function(index, tool) for index, tool in enumerate(tools)]
    if isinstance(request.get("tool_choice"), dict):
        made["tool_choice"] = _choice(object_of(request["tool_choice"]))
    made["messages"] = [_message(object_of(each)) for each in list_of(request.get("messages"))]
    return made, names


def as_custom(call: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Give a call as the client knows it: of a custom tool if its function stands for one."""
    function = object_of(call.get("function"))
    if function.get("name") not in names:
        return call
    custom = {"name": function["name"], "input": input_of(str(function.get("arguments")))}
    return {"id": call["id"], "type": "custom", "custom": custom}


def arguments_of(given: object) -> str:
    """Give the input of a custom tool as the arguments of the function that stands for it."""
    return json.dumps({INPUT: given}, ensure_ascii=False)


def input_of(arguments: str) -> str:
    """Give the input of a custom tool out of those arguments; what is no such object is the text itself."""
    value = value_of(arguments)
    found = value if isinstance(value, str) else object_of(value).get(INPUT)
    return found if isinstance(found, str) else arguments


def _function(index: int, tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "custom":
        return tool
    custom = object_of(tool["custom"])
    if object_of(custom.get("format")).get("type") == "grammar":
        raise InvalidInput(
            "A custom tool with a grammar goes only to a model that knows grammars itself, and "
            "without tools of this server; use format 'text'.",
            param=f"tools[{index}].custom.format",
        )
    told = {"description": custom["description"]} if custom.get("description") else {}
    return {
        "type": "function",
        "function": {"name": custom["name"], **told, "parameters": PARAMETERS},
    }


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    if choice.get("type") == "custom":
        return {"type": "function", "function": {"name": object_of(choice.get("custom"))["name"]}}
    allowed = object_of(choice.get("allowed_tools"))
    if choice.get("type") != "allowed_tools" or not allowed:
        return choice
    tools = [_choice(object_of(tool)) for tool in list_of(allowed.get("tools"))]
    return {**choice, "allowed_tools": {**allowed, "tools": tools}}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    calls = [object_of(call) for call in list_of(message.get("tool_calls"))]
    if not any(call.get("type") == "custom" for call in calls):
        return message
    return {**message, "tool_calls": [_call(call) for call in calls]}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    custom = object_of(call.get("custom"))
    if not custom:
        return dict(call)
    function = {"name": custom.get("name"), "arguments": arguments_of(custom.get("input"))}
    return {"id": call.get("id"), "type": "function", "function": function}
