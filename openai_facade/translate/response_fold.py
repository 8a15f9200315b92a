"""The events of a response's stream put together again: the Response object as a client has it then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from openai_facade.translate.response_object import Item, Response

_LIFECYCLE = frozenset(
    f"response.{name}"
    for name in (
        "created",
        "queued",
        "in_progress",
        "completed",
        "failed",
        "incomplete",
        "cancelled",
    )
)
# Event -> the field of the part, or of the item, that its delta goes to.
_PART_DELTAS = {
    "response.output_text.delta": "text",
    "response.reasoning_text.delta": "text",
    "response.refusal.delta": "refusal",
}
_ITEM_DELTAS = {
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}


def fold(events: Iterable[Mapping[str, Any]]) -> Response:
    """Give the response that a stream told, as far as it goes; empty if it did not begin."""
    response: Response = {}
    for event in events:
        kind = event["type"]
        if kind in _LIFECYCLE:
            response = dict(event["response"]) | {"output": list(event["response"]["output"])}
        elif kind == "response.output_item.added":
            response["output"].append(_copy(event["item"]))
        elif kind == "response.output_item.done":
            response["output"][event["output_index"]] = event["item"]
        elif "output_index" in event:
            _fold_into(response["output"][event["output_index"]], kind, event)
    return response


def _fold_into(item: Item, kind: str, event: Mapping[str, Any]) -> None:
    if kind in _ITEM_DELTAS:
        item[_ITEM_DELTAS[kind]] += event["delta"]
    elif kind == "response.content_part.added":
        item["content"].append(dict(event["part"]))
    elif kind == "response.content_part.done":
        item["content"][event["content_index"]] = event["part"]
    elif kind in _PART_DELTAS:
        item["content"][event["content_index"]][_PART_DELTAS[kind]] += event["delta"]


def _copy(item: Item) -> Item:
    return {name: list(value) if isinstance(value, list) else value for name, value in item.items()}  # pyright: ignore[reportUnknownArgumentType]
