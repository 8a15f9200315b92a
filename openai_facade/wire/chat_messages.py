"""The messages of a chat request: roles, content parts and calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from openai_facade.wire.faults import InvalidRequest, invalid, missing, wrong_type
from openai_facade.wire.fields import (
    as_array,
    as_object,
    as_string,
    one_of,
    required,
    required_string,
)


def check_messages(value: object) -> None:
    """Check the messages of a chat.

    Parts of an unknown kind are the business of the model that gets them.

    Raises:
        InvalidRequest: names the place, what is wrong and what would fit.
    """
    messages = as_array("messages", value)
    if not messages:
        raise InvalidRequest(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            param="messages",
            wire_code="empty_array",
        )
    for index, message in enumerate(messages):
        _message(f"messages[{index}]", message)


def _message(place: str, message: object) -> None:
    fields = as_object(place, message)
    role = required_string(fields, "role", place)
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
        required_string(fields, "tool_call_id", place)
    if role == "function":
        required_string(fields, "name", place)
    if fields.get("name") is not None:
        as_string(f"{place}.name", fields["name"])
    if fields.get("tool_calls") is not None:
        _calls(f"{place}.tool_calls", fields["tool_calls"])
    if fields.get("function_call") is not None:
        here = f"{place}.function_call"
        call = as_object(here, fields["function_call"])
        required_string(call, "name", here)
        required_string(call, "arguments", here)


def _parts(place: str, parts: list[Any]) -> None:
    for index, part in enumerate(parts):
        here = f"{place}[{index}]"
        fields = as_object(here, part)
        check = _PARTS.get(required_string(fields, "type", here))
        if check is not None:
            check(here, fields)


def _text(place: str, part: dict[str, Any]) -> None:
    required_string(part, "text", place)


def _refusal(place: str, part: dict[str, Any]) -> None:
    required_string(part, "refusal", place)


def _image(place: str, part: dict[str, Any]) -> None:
    here = f"{place}.image_url"
    image = as_object(here, required(part, "image_url", here))
    if image.get("file_id") is None:
        required_string(image, "url", here)
    else:
        as_string(f"{here}.file_id", image["file_id"])
    if image.get("detail") is not None:
        one_of(("auto", "low", "high"))(f"{here}.detail", image["detail"])


def _file(place: str, part: dict[str, Any]) -> None:
    here = f"{place}.file"
    file = as_object(here, required(part, "file", here))
    given = [name for name in ("file_id", "file_data") if file.get(name) is not None]
    if len(given) != 1:
        raise invalid(here, "give exactly one of 'file_id' and 'file_data'.")
    for name in (*given, "file_url", "filename"):
        if file.get(name) is not None:
            as_string(f"{here}.{name}", file[name])


def _calls(place: str, calls: object) -> None:
    for index, call in enumerate(as_array(place, calls)):
        here = f"{place}[{index}]"
        fields = as_object(here, call)
        required_string(fields, "id", here)
        for kind, text in (("function", "arguments"), ("custom", "input")):
            if fields.get(kind) is not None:
                named = as_object(f"{here}.{kind}", fields[kind])
                required_string(named, "name", f"{here}.{kind}")
                required_string(named, text, f"{here}.{kind}")


def _content_always(_: dict[str, Any]) -> bool:
    return True


def _content_unless_spoken(fields: dict[str, Any]) -> bool:
    """An assistant may say nothing if it calls, refuses or speaks instead."""
    spoken = ("tool_calls", "function_call", "refusal", "audio")
    return all(fields.get(name) is None for name in spoken)


def _content_never(_: dict[str, Any]) -> bool:
    return False


_PARTS: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "text": _text,
    "refusal": _refusal,
    "image_url": _image,
    "file": _file,
}

_ROLES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "system": _content_always,
    "developer": _content_always,
    "user": _content_always,
    "assistant": _content_unless_spoken,
    "tool": _content_always,
    "function": _content_never,
}
