"""Items of responses: what a client sends in the form in which it is kept, and listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openai_facade.translate.response_object import Item, item_id
from openai_facade.wire.response_input import duplicate, kind_of

_TEXT_OF = {"input_text": "output_text"}


def kept_items(given: str | Sequence[Mapping[str, Any]] | None) -> list[Item]:
    """Give a checked input as items, each with its type, an id and its content in parts.

    References stay as they are.

    Raises:
        InvalidRequest: two items have one id.
    """
    if given is None:
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    kept = [_kept(dict(item)) for item in given]
    seen: set[str] = set()
    for index, item in enumerate(kept):
        if item["id"] in seen:
            raise duplicate(f"input[{index}]", item["id"])
        seen.add(item["id"])
    return kept


def _kept(item: Item) -> Item:
    kind = kind_of(item)
    item = {name: value for name, value in item.items() if value is not None} | {"type": kind}
    item.setdefault("id", item_id(kind))
    if kind == "message":
        item["content"] = _parts(item["role"], item["content"])
        item["status"] = "completed"
    elif kind == "reasoning":
        item.setdefault("summary", [])
    elif kind == "mcp_approval_response":
        item["request_id"] = item["approval_request_id"]  # OpenAI's document requires both
    elif kind == "file_search_call" or (
        kind.endswith(("_call", "_call_output")) and kind != "mcp_call"
    ):
        item.setdefault("status", "completed")
    return item


def _parts(role: str, content: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        content = [{"type": "input_text", "text": content}]
    parts = [{name: value for name, value in part.items() if value is not None} for part in content]
    for part in parts:
        if role == "assistant":
            part["type"] = _TEXT_OF.get(part["type"], part["type"])
        if part["type"] == "output_text":
            part.setdefault("annotations", [])
            part.setdefault("logprobs", [])
        elif part["type"] == "input_image":
            part.setdefault("detail", "auto")
    return parts


def shown_item(item: Mapping[str, Any], include: Sequence[str]) -> Item:
    """Give a kept item as a client may see it that asked for `include`."""
    shown = dict(item)
    if shown["type"] == "file_search_call" and "file_search_call.results" not in include:
        shown["results"] = None
    return shown
