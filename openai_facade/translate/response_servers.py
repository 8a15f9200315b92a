"""Which tools of an MCP server a response may use, and which of their calls a person must allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from openai_facade.translate.mcp_opt_in import ToolFilter
from openai_facade.wire.faults import invalid


class Listed(Protocol):
    """A tool as its server lists it."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def input_schema(self) -> dict[str, Any]: ...
    @property
    def read_only(self) -> bool: ...


def allowed_tools(place: str, tool: Mapping[str, Any], listed: Sequence[Listed]) -> list[Listed]:
    """Give those of a server's tools that a request's `mcp` tool lets the model see.

    Raises:
        InvalidRequest: it names a tool that the server does not have.
    """
    chosen = _filter(place, tool.get("allowed_tools"))
    names = {each.name for each in listed}
    for name in sorted((chosen.names or frozenset()) - names):
        raise invalid(
            f"{place}.allowed_tools",
            f"{tool['server_label']!r} has no tool {name[:80]!r} that this key may use.",
        )
    return [each for each in listed if chosen.admits(each.name, each.read_only)]


def needs_approval(tool: Mapping[str, Any], listed: Listed) -> bool:
    """Tell whether each call needs a person's approval: so it is for all that `never` does not name."""
    rule: object = tool.get("require_approval")
    if rule is None or isinstance(rule, str):
        return rule != "never"
    filters = cast("Mapping[str, Any]", rule)
    if filters.get("always") is not None:
        always = _filter("", filters["always"])
        if always.admits(listed.name, listed.read_only):
            return True
    if filters.get("never") is None:
        return True
    return not _filter("", filters["never"]).admits(listed.name, listed.read_only)


def listing(tools: Iterable[Listed]) -> list[dict[str, Any]]:
    """Give the tools as an mcp_list_tools item has them."""
    return [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": tool.input_schema,
            "annotations": {"readOnlyHint": tool.read_only},
        }
        for tool in tools
    ]


def _filter(place: str, value: object) -> ToolFilter:
    if value is None:
        return ToolFilter(place)
    if isinstance(value, list):
        return ToolFilter(place, frozenset(cast("list[str]", value)))
    fields = cast("Mapping[str, Any]", value)
    names = fields.get("tool_names")
    return ToolFilter(place, None if names is None else frozenset(names), fields.get("read_only"))
