"""Bodies and objects of `/v1/conversations`."""

from __future__ import annotations

from typing import Any, cast

from mcp_server.services.conversations import Conversation
from openai_facade.wire.faults import InvalidRequest, invalid, missing, unsupported
from openai_facade.wire.fields import as_array
from openai_facade.wire.metadata import check_metadata
from openai_facade.wire.response_input import check_item, kind_of

_MOST_ITEMS = 20  # at a time: OpenAI's document 2.3.0


def checked_metadata(body: dict[str, Any], *, required: bool = False) -> dict[str, str]:
    """Give the metadata of a body; null means none.

    Raises:
        InvalidRequest: it does not fit, or is not there though `required`.
    """
    if required and "metadata" not in body:
        raise missing("metadata")
    given = body.get("metadata")
    if given is None:
        return {}
    check_metadata("metadata", given)
    return cast("dict[str, str]", given)


def checked_items(body: dict[str, Any], *, required: bool = False) -> list[dict[str, Any]]:
    """Give the items of a body.

    Raises:
        InvalidRequest: names the item and its field.
    """
    given = body.get("items")
    if given is None:
        if required:
            raise missing("items")
        return []
    listed = as_array("items", given)
    if len(listed) > _MOST_ITEMS:
        raise invalid(
            "items", f"expected at most {_MOST_ITEMS} at a time, but got {len(listed)} instead."
        )
    for index, item in enumerate(listed):
        place = f"items[{index}]"
        check_item(place, item)
        if kind_of(item) == "item_reference":
            raise unsupported(f"{place}.type", "'item_reference'. Send the item itself.")
    return cast("list[dict[str, Any]]", listed)


def conversation_object(conversation: Conversation) -> dict[str, Any]:
    """Give the conversation object; `created_at` is in Unix seconds."""
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": conversation.metadata,
    }


def deleted_object(conversation: str) -> dict[str, Any]:
    """Give the answer to a deletion."""
    return {"id": conversation, "object": "conversation.deleted", "deleted": True}


def locked(message: str) -> InvalidRequest:
    """A response is being made from the conversation: OpenAI answers 409, and its SDKs try again."""
    return InvalidRequest(
        message, param="conversation", wire_code="conversation_locked", status=409
    )
