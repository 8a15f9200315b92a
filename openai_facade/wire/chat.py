"""The body of `POST /v1/chat/completions`: what must fit before any model sees it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from openai_facade.wire.faults import InvalidRequest, invalid, missing, unsupported, wrong_type
from openai_facade.wire.fields import (
    Check,
    as_array,
    as_object,
    as_string,
    boolean,
    integer,
    mapping,
    number,
    one_of,
    required,
    string,
)

FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_MOST_METADATA = 16


def check_chat(body: dict[str, Any]) -> str:
    """Check a decoded body and give the model id that it asks for.

    Only what this server relies on is checked: unknown fields, and the inside of parts that are not
    text, are the business of the model that gets them.

    Raises:
        InvalidRequest: names the field, what is wrong and what would fit.
    """
    model = as_string("model", required(body, "model"))
    messages = as_array("messages", required(body, "messages"))
    if not messages:
        raise InvalidRequest(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            param="messages",
            wire_code="empty_array",
        )
    for index, message in enumerate(messages):
        _message(f"messages[{index}]", message)
    for name, value in body.items():
        check = _FIELDS.get(name)
        if check is not None and value is not None:
            check(name, value)
    return model


def _message(place: str, message: object) -> None:
    fields = as_object(place, message)
    role = as_string(f"{place}.role", required(fields, "role", f"{place}.role"))
    content_needed = _ROLES.get(role)
    if content_needed is None:
        allowed = ", ".join(repr(name) for name in _ROLES)
        raise invalid(f"{place}.role", f"{role!r}. Supported values are: {allowed}.")
    content = fields.get("content")
    if isinstance(content, list):
        _parts(f"{place}.content", cast("list[Any]", content))
    elif content is not None and not isinstance(content, str):
        raise wrong_type(f"{place}.content", "a string or an array of objects", content)
    if content is None and content_needed(fields):
        raise missing(f"{place}.content")
    if role == "tool":
        as_string(
            f"{place}.tool_call_id", required(fields, "tool_call_id", f"{place}.tool_call_id")
        )
    calls = fields.get("tool_calls")
    if calls is not None:
        _calls(f"{place}.tool_calls", calls)


def _parts(place: str, parts: list[Any]) -> None:
    for index, part in enumerate(parts):
        fields = as_object(f"{place}[{index}]", part)
        kind_place = f"{place}[{index}].type"
        kind = as_string(kind_place, required(fields, "type", kind_place))
        if kind == "text":
            text_place = f"{place}[{index}].text"
            as_string(text_place, required(fields, "text", text_place))


def _calls(place: str, calls: object) -> None:
    for index, call in enumerate(as_array(place, calls)):
        here = f"{place}[{index}]"
        fields = as_object(here, call)
        as_string(f"{here}.id", required(fields, "id", f"{here}.id"))
        function = fields.get("function")
        if function is not None:
            named = as_object(f"{here}.function", function)
            for name in ("name", "arguments"):
                inner = f"{here}.function.{name}"
                as_string(inner, required(named, name, inner))


def _tools(place: str, tools: object) -> None:
    for index, tool in enumerate(as_array(place, tools)):
        here = f"{place}[{index}]"
        fields = as_object(here, tool)
        kind = as_string(f"{here}.type", required(fields, "type", f"{here}.type"))
        if kind in _NAMED_TOOLS:
            inner = f"{here}.{kind}"
            _NAMED_TOOLS[kind](inner, as_object(inner, required(fields, kind, inner)))
        elif kind != "mcp":
            raise unsupported(
                f"{here}.type", f"{kind!r}. Supported values are: 'function', 'custom', 'mcp'."
            )


def _custom(here: str, custom: dict[str, Any]) -> None:
    as_string(f"{here}.name", required(custom, "name", f"{here}.name"))


def _function(here: str, function: dict[str, Any]) -> None:
    name = as_string(f"{here}.name", required(function, "name", f"{here}.name"))
    if not FUNCTION_NAME.match(name):
        raise invalid(
            f"{here}.name", f"{name!r} does not match the pattern '^[a-zA-Z0-9_-]{{1,64}}$'."
        )
    if function.get("description") is not None:
        as_string(f"{here}.description", function["description"])
    if function.get("parameters") is not None:
        as_object(f"{here}.parameters", function["parameters"])


def _tool_choice(place: str, choice: object) -> None:
    if isinstance(choice, str):
        one_of(("none", "auto", "required"))(place, choice)
        return
    if not isinstance(choice, dict):
        raise wrong_type(place, "a string or an object", choice)
    fields = cast("dict[str, Any]", choice)
    as_string(f"{place}.type", required(fields, "type", f"{place}.type"))


def _response_format(place: str, value: object) -> None:
    fields = as_object(place, value)
    kind = required(fields, "type", f"{place}.type")
    one_of(("text", "json_object", "json_schema"))(f"{place}.type", kind)
    if kind != "json_schema":
        return
    here = f"{place}.json_schema"
    schema = as_object(here, required(fields, "json_schema", here))
    as_string(f"{here}.name", required(schema, "name", f"{here}.name"))
    if schema.get("schema") is not None:
        as_object(f"{here}.schema", schema["schema"])


def _stop(place: str, value: object) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise wrong_type(place, "a string or an array of strings", value)
    for index, item in enumerate(cast("list[object]", value)):
        as_string(f"{place}[{index}]", item)


def _metadata(place: str, value: object) -> None:
    fields = as_object(place, value)
    if len(fields) > _MOST_METADATA:
        raise invalid(
            place, f"expected at most {_MOST_METADATA} keys, but got {len(fields)} instead."
        )
    for name, item in fields.items():
        as_string(f"{place}.{name}", item)


def _stream_options(place: str, value: object) -> None:
    fields = as_object(place, value)
    if fields.get("include_usage") is not None:
        boolean(f"{place}.include_usage", fields["include_usage"])


def _content_always(_: dict[str, Any]) -> bool:
    return True


def _content_unless_spoken(fields: dict[str, Any]) -> bool:
    """An assistant may say nothing if it calls, refuses or speaks instead."""
    spoken = ("tool_calls", "function_call", "refusal", "audio")
    return all(fields.get(name) is None for name in spoken)


def _content_never(_: dict[str, Any]) -> bool:
    return False


_NAMED_TOOLS: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "function": _function,
    "custom": _custom,
}

_ROLES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "system": _content_always,
    "developer": _content_always,
    "user": _content_always,
    "assistant": _content_unless_spoken,
    "tool": _content_always,
    "function": _content_never,
}

# Bounds: OpenAI's OpenAPI document 2.3.0, CreateChatCompletionRequest.
_FIELDS: dict[str, Check] = {
    "frequency_penalty": number(-2, 2),
    "logit_bias": mapping,
    "logprobs": boolean,
    "max_completion_tokens": integer(1),
    "max_tokens": integer(1),
    "metadata": _metadata,
    "n": integer(1, 128),
    "parallel_tool_calls": boolean,
    "presence_penalty": number(-2, 2),
    "reasoning_effort": string,
    "response_format": _response_format,
    "seed": integer(),
    "stop": _stop,
    "store": boolean,
    "stream": boolean,
    "stream_options": _stream_options,
    "temperature": number(0, 2),
    "tool_choice": _tool_choice,
    "tools": _tools,
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1),
    "user": string,
}
