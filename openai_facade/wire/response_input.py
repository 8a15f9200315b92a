"""The items of a response's input: what each kind must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

from openai_facade.wire.faults import InvalidRequest, invalid, missing, unsupported, wrong_type
from openai_facade.wire.fields import as_array, as_object, as_string, boolean, one_of, required

_CheckItem: TypeAlias = Callable[[str, dict[str, Any]], None]

_LONGEST_ID = 200

# What may be in any item, and is looked up by.
_TEXTS = ("id", "status", "call_id", "server_label", "name", "approval_request_id")
_ROLES = ("user", "assistant", "system", "developer")


def check_input(place: str, value: object) -> None:
    """Check an input: a text, or a list of items.

    Raises:
        InvalidRequest: names the item and its field.
    """
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise wrong_type(place, "a string or an array of objects", value)
    for index, item in enumerate(cast("list[object]", value)):
        check_item(f"{place}[{index}]", item)


def check_item(place: str, value: object) -> None:
    """Check one item; one without a type is a message if it has a role, else a reference.

    Raises:
        InvalidRequest: names the field.
    """
    item = as_object(place, value)
    kind = kind_of(item)
    if not isinstance(kind, str):
        raise wrong_type(f"{place}.type", "a string", kind)
    check = _ITEMS.get(kind)
    if check is None:
        known = ", ".join(repr(name) for name in _ITEMS)
        raise unsupported(f"{place}.type", f"{kind[:80]!r}. Supported values are: {known}.")
    for name in _TEXTS:
        if item.get(name) is not None:
            as_string(f"{place}.{name}", item[name])
    given = item.get("id")
    if given is not None and (not 0 < len(given) <= _LONGEST_ID or "\0" in given):
        raise invalid(f"{place}.id", f"an id has 1 to {_LONGEST_ID} characters, and no NUL.")
    check(place, item)


def kind_of(item: dict[str, Any]) -> Any:
    """Give the type of an item, also where clients leave it out."""
    kind = item.get("type")
    if kind is not None:
        return kind
    return "item_reference" if "role" not in item and "id" in item else "message"


def _message(place: str, item: dict[str, Any]) -> None:
    one_of(_ROLES)(f"{place}.role", required(item, "role", f"{place}.role"))
    content = required(item, "content", f"{place}.content")
    if not isinstance(content, str):
        check_parts(f"{place}.content", content, assistant=item["role"] == "assistant")


def check_parts(place: str, value: object, *, assistant: bool = False) -> None:
    """Check the parts of a message's content, or of what a tool gave.

    Raises:
        InvalidRequest: names the part and its field.
    """
    if not isinstance(value, list):
        raise wrong_type(place, "a string or an array of objects", value)
    known = (*_SPOKEN, *_GIVEN) if assistant else tuple(_GIVEN)
    for index, entry in enumerate(cast("list[object]", value)):
        here = f"{place}[{index}]"
        part = as_object(here, entry)
        kind = as_string(f"{here}.type", required(part, "type", f"{here}.type"))
        if kind not in known:
            allowed = ", ".join(repr(name) for name in known)
            raise unsupported(f"{here}.type", f"{kind[:80]!r}. Supported values are: {allowed}.")
        if kind in _SPOKEN:
            as_string(f"{here}.{_SPOKEN[kind]}", required(part, _SPOKEN[kind], here))
        else:
            _one_source(here, part, _GIVEN[kind])


def _one_source(place: str, part: dict[str, Any], sources: tuple[str, ...]) -> None:
    _texts(place, part, *sources, "filename", "detail")
    if all(part.get(name) is None for name in sources):
        raise missing(f"{place}.{sources[0]}")


def _texts(place: str, fields: dict[str, Any], *names: str) -> None:
    for name in names:
        if fields.get(name) is not None:
            as_string(f"{place}.{name}", fields[name])


def _fields(*names: str) -> _CheckItem:
    def check(place: str, item: dict[str, Any]) -> None:
        for name in names:
            as_string(f"{place}.{name}", required(item, name, f"{place}.{name}"))

    return check


def _output(place: str, item: dict[str, Any]) -> None:
    as_string(f"{place}.call_id", required(item, "call_id", f"{place}.call_id"))
    output = required(item, "output", f"{place}.output")
    if not isinstance(output, str):
        check_parts(f"{place}.output", output, assistant=True)


def _approval(place: str, item: dict[str, Any]) -> None:
    here = f"{place}.approval_request_id"
    as_string(here, required(item, "approval_request_id", here))
    boolean(f"{place}.approve", required(item, "approve", f"{place}.approve"))
    if item.get("reason") is not None:
        as_string(f"{place}.reason", item["reason"])


def _listed_tools(place: str, item: dict[str, Any]) -> None:
    as_string(f"{place}.server_label", required(item, "server_label", f"{place}.server_label"))
    for index, tool in enumerate(as_array(f"{place}.tools", required(item, "tools", place))):
        here = f"{place}.tools[{index}]"
        fields = as_object(here, tool)
        as_string(f"{here}.name", required(fields, "name", f"{here}.name"))
        _texts(here, fields, "description")
        for name in ("input_schema", "annotations"):
            if fields.get(name) is not None:
                as_object(f"{here}.{name}", fields[name])


def _mcp_call(place: str, item: dict[str, Any]) -> None:
    _fields("server_label", "name", "arguments")(place, item)
    _texts(place, item, "output")
    error = item.get("error")
    if error is None or isinstance(error, str):
        return
    content: object = as_object(f"{place}.error", error).get("content")
    if content is None:
        return
    for index, part in enumerate(as_array(f"{place}.error.content", content)):
        as_object(f"{place}.error.content[{index}]", part)


def _search(place: str, item: dict[str, Any]) -> None:
    queries = as_array(f"{place}.queries", required(item, "queries", f"{place}.queries"), "strings")
    for index, query in enumerate(queries):
        as_string(f"{place}.queries[{index}]", query)
    for index, result in enumerate(as_array(f"{place}.results", item.get("results") or [])):
        here = f"{place}.results[{index}]"
        _texts(here, as_object(here, result), "file_id", "filename", "text")


def _reasoning(place: str, item: dict[str, Any]) -> None:
    for name in ("summary", "content"):
        for index, part in enumerate(as_array(f"{place}.{name}", item.get(name) or [])):
            as_object(f"{place}.{name}[{index}]", part)


# A part's type -> the field that holds its text.
_SPOKEN = {"output_text": "text", "refusal": "refusal"}
# A part's type -> the fields of which one must be there.
_GIVEN = {
    "input_text": ("text",),
    "input_image": ("image_url", "file_id"),
    "input_file": ("file_data", "file_id", "file_url"),
}

_ITEMS: dict[str, _CheckItem] = {
    "message": _message,
    "function_call": _fields("call_id", "name", "arguments"),
    "function_call_output": _output,
    "custom_tool_call": _fields("call_id", "name", "input"),
    "custom_tool_call_output": _output,
    "reasoning": _reasoning,
    "item_reference": _fields("id"),
    "mcp_list_tools": _listed_tools,
    "mcp_call": _mcp_call,
    "mcp_approval_request": _fields("id", "server_label", "name", "arguments"),
    "mcp_approval_response": _approval,
    "file_search_call": _search,
    "compaction": _fields("encrypted_content"),
}


def duplicate(place: str, item_id: str) -> InvalidRequest:
    """Two items of one id."""
    return InvalidRequest(
        f"Duplicate item found with id {item_id[:80]}. Remove duplicate items from your input and "
        "try again.",
        param=place,
        wire_code=None,
    )
