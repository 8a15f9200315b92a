"""Read which MCP tools a chat request opts into, and give the request without the opt-in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from mcp_server.function_names import function_name
from openai_facade.wire.faults import InvalidRequest, invalid, unsupported, wrong_type
from openai_facade.wire.fields import as_array, as_string, boolean, required

LABEL = "isthmus"
"""The label of this server's own tools."""

_ELSEWHERE = ("server_url", "connector_id", "tunnel_id")


@dataclass(frozen=True, slots=True)
class ToolFilter:
    """Some of a server's tools: those with these names (None: any) and this `readOnlyHint` (None: any)."""

    place: str
    names: frozenset[str] | None = None
    read_only: bool | None = None

    def admits(self, name: str, read_only: bool) -> bool:
        return (self.names is None or name in self.names) and (
            self.read_only is None or self.read_only == read_only
        )


@dataclass(frozen=True, slots=True)
class ToolSelection:
    """The tools of this server that a request wants: what any of the filters admits."""

    filters: tuple[ToolFilter, ...]

    def admits(self, name: str, read_only: bool) -> bool:
        return any(each.admits(name, read_only) for each in self.filters)

    def require_known(self, names: Iterable[str]) -> None:
        """Refuse an allowed tool that is none of `names`: a slip would leave the model without it.

        Raises:
            InvalidRequest: names the tool.
        """
        known = frozenset(names)
        for each in self.filters:
            for name in sorted((each.names or frozenset()) - known):
                raise invalid(
                    f"{each.place}.allowed_tools",
                    f"{LABEL!r} has no tool {name!r} that this key may use.",
                )


def select_tools(body: Mapping[str, Any], defaults: Iterable[str]) -> ToolSelection | None:
    """Give the selection of a checked chat body; None if it wants no tool of this server.

    `defaults` are the labels that the operator gives to this key or model; they count only if the
    request says nothing itself and can be answered with tools. An empty `metadata.mcp_servers`
    refuses them.

    Raises:
        InvalidRequest: another server, an unknown label, or an approval that chat cannot ask for.
    """
    filters = [
        _tool_filter(f"tools[{index}]", tool)
        for index, tool in enumerate(_tools(body))
        if tool["type"] == "mcp"
    ]
    labels = _metadata_labels(body)
    if labels is None:
        labels = () if filters or _hindrance(body) else tuple(defaults)
    for label in labels:
        if label != LABEL:
            raise _unknown_label("metadata.mcp_servers", label)
    if labels:
        filters.append(ToolFilter("metadata.mcp_servers"))
    return ToolSelection(tuple(filters)) if filters else None


def without_opt_in(body: Mapping[str, Any]) -> dict[str, Any]:
    """Give a copy of the body that holds nothing of the opt-in: a model would refuse it."""
    plain = dict(body)
    tools = [tool for tool in _tools(body) if tool["type"] != "mcp"]
    if tools:
        plain["tools"] = tools
    else:
        plain.pop("tools", None)
    metadata = _metadata(body)
    if "mcp_servers" in metadata:
        kept = {name: value for name, value in metadata.items() if name != "mcp_servers"}
        if kept:
            plain["metadata"] = kept
        else:
            del plain["metadata"]
    return plain


def asks_for_servers(body: Mapping[str, Any]) -> bool:
    """Tell whether the metadata of a chat body names servers."""
    return bool(_metadata_labels(body))


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", body.get("tools") or [])


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    return cast("dict[str, str]", body.get("metadata") or {})


def _metadata_labels(body: Mapping[str, Any]) -> tuple[str, ...] | None:
    listed = _metadata(body).get("mcp_servers")
    if listed is None:
        return None
    return tuple(label for label in (part.strip() for part in listed.split(",")) if label)


def _tool_filter(place: str, tool: Mapping[str, Any]) -> ToolFilter:
    for name in _ELSEWHERE:
        if tool.get(name) is not None:
            raise unsupported(
                f"{place}.{name}",
                f"only the tools of this server can be used here; send server_label {LABEL!r} "
                f"without {name}.",
            )
    label = as_string(
        f"{place}.server_label", required(tool, "server_label", f"{place}.server_label")
    )
    if label != LABEL:
        raise _unknown_label(f"{place}.server_label", label)
    _require_no_approval(f"{place}.require_approval", tool.get("require_approval"))
    return _allowed(place, tool.get("allowed_tools"))


def _require_no_approval(place: str, value: object) -> None:
    if value is None or value == "never":
        return
    raise unsupported(
        place,
        "a chat completion cannot ask for an approval; send 'never' or leave it out.",
    )


def _allowed(place: str, value: object) -> ToolFilter:
    here = f"{place}.allowed_tools"
    if value is None:
        return ToolFilter(place)
    if isinstance(value, list):
        return ToolFilter(place, _names(here, cast("list[object]", value)))
    if not isinstance(value, dict):
        raise wrong_type(here, "an array of strings or an object", value)
    fields = cast("dict[str, Any]", value)
    names = fields.get("tool_names")
    read_only = fields.get("read_only")
    if read_only is not None:
        boolean(f"{here}.read_only", read_only)
    return ToolFilter(
        place, None if names is None else _names(f"{here}.tool_names", names), read_only
    )


def _names(place: str, value: object) -> frozenset[str]:
    names = as_array(place, value, "strings")
    return frozenset(as_string(f"{place}[{index}]", name) for index, name in enumerate(names))


def _unknown_label(place: str, label: str) -> InvalidRequest:
    return invalid(place, f"{label!r} is not a server here. Supported values are: {LABEL!r}.")


def client_functions(body: Mapping[str, Any]) -> frozenset[str]:
    """Give the names of the tools that the client runs itself; the body holds no opt-in any more."""
    return frozenset(tool[tool["type"]]["name"] for tool in _tools(body))


def function_choice(body: dict[str, Any], offered: Iterable[str] = ()) -> dict[str, Any]:
    """Give the body with a `tool_choice` of type mcp as the choice of a function.

    `offered` are the functions of this server's tools, for a choice that allows all of them.

    Raises:
        InvalidRequest: it names another server, or no tool while the client has tools of its own.
    """
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return body
    fields = cast("dict[str, Any]", choice)
    if fields["type"] == "allowed_tools":
        return body | {"tool_choice": _allowed_functions(fields, tuple(offered))}
    if fields["type"] != "mcp":
        return body
    function = _chosen("tool_choice", fields)
    if function is not None:
        return body | {"tool_choice": function}
    if body.get("tools"):
        raise unsupported(
            "tool_choice", "beside functions of your own, name the tool: {..., 'name': TOOL}."
        )
    return body | {"tool_choice": "required"}


def allows_tools(body: Mapping[str, Any]) -> bool:
    """Tell whether `tool_choice` is a list of tools, which `function_choice` may have to know all of."""
    choice = body.get("tool_choice")
    return isinstance(choice, dict) and cast("dict[str, Any]", choice)["type"] == "allowed_tools"


def _allowed_functions(choice: dict[str, Any], offered: tuple[str, ...]) -> dict[str, Any]:
    allowed: dict[str, Any] = choice["allowed_tools"]
    tools: list[dict[str, Any]] = []
    for index, tool in enumerate(cast("list[dict[str, Any]]", allowed["tools"])):
        if tool["type"] != "mcp":
            tools.append(tool)
            continue
        function = _chosen(f"tool_choice.allowed_tools.tools[{index}]", tool)
        tools += [function] if function is not None else map(_function, offered)
    return {**choice, "allowed_tools": {**allowed, "tools": tools}}


def _chosen(place: str, choice: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the function that a choice of type mcp names; None if it names the server alone."""
    here = f"{place}.server_label"
    label = as_string(here, required(choice, "server_label", here))
    if label != LABEL:
        raise _unknown_label(here, label)
    name = choice.get("name")
    return None if name is None else _function(function_name(as_string(f"{place}.name", name)))


def _function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def require_one_answer(body: Mapping[str, Any]) -> None:
    """Refuse what one message out of several turns cannot carry.

    Raises:
        InvalidRequest: more than one choice, or log probabilities.
    """
    hindrance = _hindrance(body)
    if hindrance is not None:
        raise hindrance


def _hindrance(body: Mapping[str, Any]) -> InvalidRequest | None:
    if (body.get("n") or 1) != 1:
        return unsupported("n", "with tools of this server there is one choice; leave n out.")
    if body.get("logprobs"):
        return unsupported("logprobs", "with tools of this server there are none; leave it out.")
    return None
