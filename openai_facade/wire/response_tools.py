"""The tools of a response's request, and which of them the model may or must call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from openai_facade.wire.chat_tools import FUNCTION_NAME
from openai_facade.wire.faults import InvalidRequest, invalid, unsupported, wrong_type
from openai_facade.wire.fields import (
    as_array,
    as_object,
    as_string,
    boolean,
    integer,
    number,
    one_of,
    required,
)

MOST_RESULTS = 50
_MOST_STORES = 10


def check_tools(place: str, value: object) -> None:
    """Check the tools of a request.

    Raises:
        InvalidRequest: names the tool and its field; two tools of one name.
    """
    names: set[str] = set()
    labels: set[str] = set()
    for index, entry in enumerate(as_array(place, value)):
        here = f"{place}[{index}]"
        tool = as_object(here, entry)
        kind = as_string(f"{here}.type", required(tool, "type", f"{here}.type"))
        check = _TOOLS.get(kind)
        if check is None:
            known = ", ".join(repr(name) for name in _TOOLS)
            raise unsupported(f"{here}.type", f"{kind[:80]!r}. Supported values are: {known}.")
        check(here, tool)
        if kind == "mcp":
            _once(f"{here}.server_label", tool["server_label"], labels)
        else:
            _once(f"{here}.name", tool.get("name", kind), names)


def _once(place: str, name: str, seen: set[str]) -> None:
    if name in seen:
        raise invalid(place, f"{name[:80]!r} is there twice; give each tool a name of its own.")
    seen.add(name)


def _named(here: str, tool: dict[str, Any]) -> None:
    name = as_string(f"{here}.name", required(tool, "name", f"{here}.name"))
    if not FUNCTION_NAME.match(name):
        raise invalid(
            f"{here}.name",
            f"{name[:80]!r} does not match the pattern '^[a-zA-Z0-9_-]{{1,64}}$'.",
        )
    if tool.get("description") is not None:
        as_string(f"{here}.description", tool["description"])


def _function(here: str, tool: dict[str, Any]) -> None:
    _named(here, tool)
    if tool.get("parameters") is not None:
        as_object(f"{here}.parameters", tool["parameters"])
    if tool.get("strict") is not None:
        boolean(f"{here}.strict", tool["strict"])


def _custom(here: str, tool: dict[str, Any]) -> None:
    _named(here, tool)
    if tool.get("format") is None:
        return
    place = f"{here}.format"
    form = as_object(place, tool["format"])
    kind = required(form, "type", f"{place}.type")
    one_of(("text", "grammar"))(f"{place}.type", kind)
    if kind == "grammar":
        for name in ("syntax", "definition"):
            as_string(f"{place}.{name}", required(form, name, f"{place}.{name}"))


def _mcp(here: str, tool: dict[str, Any]) -> None:
    as_string(f"{here}.server_label", required(tool, "server_label", f"{here}.server_label"))
    for name in ("connector_id", "tunnel_id"):
        if tool.get(name) is not None:
            raise unsupported(f"{here}.{name}", "name the server by its server_url.")
    for name in ("server_url", "server_description", "authorization"):
        if tool.get(name) is not None:
            as_string(f"{here}.{name}", tool[name])
    if tool.get("headers") is not None:
        for name, value in as_object(f"{here}.headers", tool["headers"]).items():
            as_string(f"{here}.headers.{name[:80]}", value)
    allowed = tool.get("allowed_tools")
    if isinstance(allowed, list):
        _names(f"{here}.allowed_tools", cast("object", allowed))
    elif allowed is not None:
        _filter(f"{here}.allowed_tools", cast("object", allowed))
    _require_approval(f"{here}.require_approval", tool.get("require_approval"))


def _require_approval(place: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, str):
        one_of(("always", "never"))(place, value)
        return
    for name, chosen in as_object(place, value).items():
        if name not in {"always", "never"}:
            raise InvalidRequest(
                f"Unknown parameter: '{place}.{name[:80]}'. Supported are 'always' and 'never'.",
                param=f"{place}.{name[:80]}",
                wire_code="unknown_parameter",
            )
        if chosen is not None:
            _filter(f"{place}.{name}", chosen)


def _filter(place: str, value: object) -> None:
    fields = as_object(place, value)
    if fields.get("tool_names") is not None:
        _names(f"{place}.tool_names", fields["tool_names"])
    if fields.get("read_only") is not None:
        boolean(f"{place}.read_only", fields["read_only"])


def _names(place: str, value: object) -> None:
    for index, name in enumerate(as_array(place, value, "strings")):
        as_string(f"{place}[{index}]", name)


def _file_search(here: str, tool: dict[str, Any]) -> None:
    place = f"{here}.vector_store_ids"
    stores = required(tool, "vector_store_ids", place)
    _names(place, stores)
    if not 1 <= len(stores) <= _MOST_STORES:
        raise invalid(place, f"give 1 to {_MOST_STORES} vector stores.")
    if tool.get("max_num_results") is not None:
        integer(1, MOST_RESULTS)(f"{here}.max_num_results", tool["max_num_results"])
    if tool.get("filters") is not None:
        as_object(f"{here}.filters", tool["filters"])
    if tool.get("ranking_options") is not None:
        _ranking(f"{here}.ranking_options", as_object(here, tool["ranking_options"]))


def _ranking(place: str, options: dict[str, Any]) -> None:
    if options.get("ranker") is not None:
        as_string(f"{place}.ranker", options["ranker"])
    if options.get("score_threshold") is not None:
        number(0, 1)(f"{place}.score_threshold", options["score_threshold"])
    if options.get("hybrid_search") is not None:
        here = f"{place}.hybrid_search"
        weights = as_object(here, options["hybrid_search"])
        for name in ("embedding_weight", "text_weight"):
            number(0)(f"{here}.{name}", required(weights, name, f"{here}.{name}"))
        if not weights["embedding_weight"] + weights["text_weight"]:
            raise invalid(here, "one of the weights must be over 0.")


_TOOLS: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "function": _function,
    "custom": _custom,
    "mcp": _mcp,
    "file_search": _file_search,
}


def check_tool_choice(place: str, value: object) -> None:
    """Check which tools may or must be called; whether they are there is for the tools to say.

    Raises:
        InvalidRequest: names what does not fit.
    """
    if isinstance(value, str):
        one_of(("none", "auto", "required"))(place, value)
        return
    if not isinstance(value, dict):
        raise wrong_type(place, "a string or an object", value)
    choice = cast("dict[str, Any]", value)
    kind = as_string(f"{place}.type", required(choice, "type", f"{place}.type"))
    if kind == "allowed_tools":
        one_of(("auto", "required"))(f"{place}.mode", required(choice, "mode", f"{place}.mode"))
        tools = as_array(f"{place}.tools", required(choice, "tools", f"{place}.tools"))
        for index, tool in enumerate(tools):
            here = f"{place}.tools[{index}]"
            _one_choice(here, as_object(here, tool))
        return
    _one_choice(place, choice)


def _one_choice(place: str, choice: dict[str, Any]) -> None:
    kind = as_string(f"{place}.type", required(choice, "type", f"{place}.type"))
    if kind in {"function", "custom"}:
        as_string(f"{place}.name", required(choice, "name", f"{place}.name"))
    elif kind == "mcp":
        as_string(
            f"{place}.server_label", required(choice, "server_label", f"{place}.server_label")
        )
        if choice.get("name") is not None:
            as_string(f"{place}.name", choice["name"])
    elif kind != "file_search":
        raise unsupported(
            f"{place}.type",
            f"{kind[:80]!r}. Supported values are: 'function', 'custom', 'mcp', 'file_search' and "
            "'allowed_tools'.",
        )
