"""The numbered events of one response's stream, and the output list that they fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from openai_facade.translate.response_object import Item, Response, item_id
from openai_facade.translate.run_ids import approval_id, run_of

Event = dict[str, Any]
NewId: TypeAlias = Callable[[str], str]
"""Gives the id of a new item of a type."""


def error_event(body: Mapping[str, Any], number: int) -> Event:
    """Give the error event in both of its forms; `body` has message, type, param and code."""
    flat = {name: body[name] for name in ("code", "message", "param")}
    return {"type": "error", "sequence_number": number, **flat, "error": dict(body)}


class Stream:
    """Numbers events and keeps `response["output"]` as they tell it; items are replaced, never changed.

    `new_id` names its items.
    """

    def __init__(self, response: Response, sequence: int, new_id: NewId = item_id) -> None:
        self.sequence = sequence
        self.new_id = new_id
        self._response = response

    def approval_id(self) -> str:
        """Give the id of a new approval request, from which the run is known that asks for it."""
        if self._response["background"]:
            return approval_id(run_of(self._response["id"]))
        return self.new_id("mcp_approval_request")

    def event(self, kind: str, **fields: Any) -> Event:
        """Give an event of this type with the next number."""
        number, self.sequence = self.sequence, self.sequence + 1
        return {"type": kind, "sequence_number": number, **fields}

    def error(self, body: Mapping[str, Any]) -> Event:
        """Give the error event with the next number."""
        number, self.sequence = self.sequence, self.sequence + 1
        return error_event(body, number)

    def lifecycle(self, kind: str) -> Event:
        """Give an event that holds the response as it is now."""
        now = self._response | {"output": list(self._response["output"])}
        return self.event(kind, response=now)

    def add(self, item: Item) -> tuple[int, Event]:
        """Begin an item; gives its place in the output."""
        output: list[Item] = self._response["output"]
        output.append(item)
        index = len(output) - 1
        return index, self.event("response.output_item.added", output_index=index, item=item)

    def of_item(self, kind: str, index: int, **fields: Any) -> Event:
        """Give an event about an item."""
        item = self._response["output"][index]["id"]
        return self.event(kind, item_id=item, output_index=index, **fields)

    def done(self, index: int, item: Item) -> Event:
        """End an item."""
        self._response["output"][index] = item
        return self.event("response.output_item.done", output_index=index, item=item)
