"""The tools of this server as a model sees them: some of the bus, called as one principal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.agents.events import Toolbox, ToolOutcome
from mcp_server.agents.previews import Previewing
from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus
from mcp_server.bus_errors import told_error
from mcp_server.errors import Forbidden, NotFound
from mcp_server.function_names import SEARCH_FUNCTION, function_name


class BusToolbox:
    """Lists and calls over the bus; a tool that is not among the named ones does not exist here.

    A model knows the tools by function names that OpenAI allows.
    """

    def __init__(self, bus: Bus, principal: Principal, tools: Iterable[str]) -> None:
        self._bus = bus
        self._principal = principal
        self._tools = {function_name(name): name for name in tools}

    def tool_name(self, function: str) -> str:
        """Give the MCP name of a function; a name that is none of ours stays as it is."""
        return self._tools.get(function, function)

    async def specs(self) -> list[dict[str, Any]]:
        """Give OpenAI tool objects of those tools that the principal may call now."""
        return [
            {
                "type": "function",
                "function": {
                    "name": function_name(spec.name),
                    "description": spec.description,
                    "parameters": spec.input_schema,
                },
            }
            for spec in await self._bus.list_tools(self._principal)
            if function_name(spec.name) in self._tools
        ]

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        """Call a tool by its function name.

        Raises:
            AppError: the tool could not be called at all.
        """
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            return ToolOutcome(
                f"not_found: there is no tool {name!r} here; there are: {known}", is_error=True
            )
        result = await self._bus.call(self._principal, tool, arguments, key, by_model=True)
        return ToolOutcome(result.text, result.is_error)

    async def preview(self, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Tell what a call would do, see `Previewing`.

        Raises:
            AppError: it cannot be told now, or this principal may not see it.
        """
        specs = {spec.name: spec for spec in await self._bus.list_tools(self._principal)}
        tool = self._tools.get(name, "")
        how = specs[tool].preview if tool in specs else None
        if how is None or any(arguments.get(item) is not None for item in how.unless):
            return None
        if how.tool is None:
            given = {**arguments, **how.given}
        elif how.tool in specs and specs[how.tool].read_only:
            given = {item: arguments[item] for item in how.same if item in arguments}
        else:
            raise Forbidden(f"the run may not call {how.tool}, which shows what is there")
        result = await self._bus.call(self._principal, how.tool or tool, given)
        shows = "change" if how.tool is None else "current"
        if not result.is_error:
            return {"shows": shows, "result": result.structured}
        error = told_error(result.text)
        if how.tool is not None and isinstance(error, NotFound):
            return {"shows": shows, "result": None}
        raise error

    def repeatable(self, name: str) -> bool:
        """Tell whether a call made twice with one key takes effect once; a tool unknown here has none."""
        return self._bus.is_repeatable(self._tools.get(name, name))


_DEFAULT_PASSAGES = 8
_MOST_PASSAGES = 50
# What a passage tells beside its source and text.
_TOLD = ("title", "heading", "page", "start", "end", "score")


class SearchToolbox:
    """A toolbox and, beside it, the search of an agent's own vector stores, by the tool `vector_search`."""

    def __init__(
        self, tools: Toolbox, bus: Bus, principal: Principal, stores: Sequence[str]
    ) -> None:
        self._tools = tools
        self._bus = bus
        self._principal = principal
        self._stores = stores

    async def specs(self) -> list[dict[str, Any]]:
        """Give OpenAI tool objects: the toolbox's, and the search if the principal may search now."""
        tools = await self._tools.specs()
        listed = {spec.name for spec in await self._bus.list_tools(self._principal)}
        if "vector_search" not in listed:
            return tools
        kept = [spec for spec in tools if spec["function"]["name"] != SEARCH_FUNCTION]
        return [*kept, _search_spec(self._stores)]

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        """Search, or call a tool of the toolbox.

        Raises:
            AppError: the tool could not be called at all.
        """
        if name != SEARCH_FUNCTION:
            return await self._tools.call(name, arguments, key=key)
        wrong = _wrong_search(arguments)
        if wrong is not None:
            return ToolOutcome(f"invalid_input: {wrong}", is_error=True)
        limit = arguments.get("limit") or _DEFAULT_PASSAGES
        wanted = {"query": arguments["query"], "k": limit}
        if arguments.get("filter") is not None:
            wanted["filter"] = arguments["filter"]
        found: list[dict[str, Any]] = []
        for store in self._stores:
            given = {**wanted, "store": store}
            answer = await self._bus.call(
                self._principal, "vector_search", given, key, by_model=True
            )
            if answer.is_error:
                return ToolOutcome(answer.text, is_error=True)
            passages = cast("dict[str, Any]", answer.structured)["results"]
            found += [_passage(store, each) for each in passages]
        found.sort(key=lambda passage: -passage["score"])
        told = {"results": found[:limit]}
        return ToolOutcome(json.dumps(told, ensure_ascii=False))

    async def preview(self, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Tell what a call would do, where the toolbox can."""
        if name == SEARCH_FUNCTION or not isinstance(self._tools, Previewing):
            return None
        return await self._tools.preview(name, arguments)

    def repeatable(self, name: str) -> bool:
        """Tell whether a call made twice with one key takes effect once; a search has no effect."""
        return name == SEARCH_FUNCTION or self._tools.repeatable(name)


def agent_toolbox(bus: Bus, principal: Principal, definition: AgentDefinition) -> Toolbox:
    """Return what an agent may call on this server: the tools of its definition, and the search of its stores."""
    tools = BusToolbox(bus, principal, definition.tools)
    if not definition.stores:
        return tools
    return SearchToolbox(tools, bus, principal, definition.stores)


def _search_spec(stores: Sequence[str]) -> dict[str, Any]:
    about = (
        f"Find passages in the documents of {', '.join(stores)}, the best first. Cite what you use by "
        "its source, vector://STORE/DOCUMENT."
    )
    filter_ = (
        "{type: eq|ne|gt|gte|lt|lte|in|nin, key, value} or {type: and|or, filters} over metadata"
    )
    properties = {
        "query": {"type": "string", "description": "what to look for, in words"},
        "limit": {"type": "integer", "minimum": 1, "maximum": _MOST_PASSAGES},
        "filter": {"type": "object", "description": filter_},
    }
    parameters = {
        "type": "object",
        "properties": properties,
        "required": ["query"],
        "additionalProperties": False,
    }
    function = {"name": SEARCH_FUNCTION, "description": about, "parameters": parameters}
    return {"type": "function", "function": function}


def _wrong_search(arguments: Mapping[str, Any]) -> str | None:
    for name in arguments:
        if name not in {"query", "limit", "filter"}:
            return f"{name[:80]}: {SEARCH_FUNCTION} takes query, limit and filter"
    query, limit = arguments.get("query"), arguments.get("limit")
    if not isinstance(query, str) or not query.strip():
        return "query: give a text"
    whole = isinstance(limit, int) and not isinstance(limit, bool)
    if limit is not None and not (whole and 1 <= limit <= _MOST_PASSAGES):
        return f"limit: {limit!r:.80} is no whole number within 1-{_MOST_PASSAGES}"
    if not isinstance(arguments.get("filter") or {}, dict):
        return "filter: give an object {type, key, value} or {type: and|or, filters}"
    return None


def _passage(store: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a passage with the address that cites its document."""
    source = f"vector://{quote(store, safe='')}/{quote(result['document'], safe='')}"
    named = {"source": source, "document": result["document"], "store": store}
    told = {name: result[name] for name in _TOLD if name in result}
    return {**named, **told, "text": result["text"]}
