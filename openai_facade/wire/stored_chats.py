"""Stored chats on the wire: what a list is asked for, and the objects that are answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from starlette.datastructures import QueryParams

from mcp_server.services.stored_chats import ChatQuery, StoredChat
from openai_facade.wire.fields import required
from openai_facade.wire.metadata import check_metadata
from openai_facade.wire.pages import page_arguments

_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)
_SHOWN_PARTS = frozenset({"text", "image_url"})


def chat_query(query: QueryParams) -> ChatQuery:
    """Read which chats are to be listed.

    Raises:
        InvalidRequest: names the argument.
    """
    page = page_arguments(query, order="asc")
    pairs = {
        found[1]: value for name, value in query.items() if (found := _METADATA.fullmatch(name))
    }
    check_metadata("metadata", pairs)
    model = query.get("model") or None
    return ChatQuery(
        limit=page.limit, order=page.order, after=page.after, model=model, metadata=pairs
    )


def new_metadata(body: Mapping[str, Any]) -> dict[str, str]:
    """Read the metadata that a chat is to have.

    Raises:
        InvalidRequest: there is none, or it is no such object.
    """
    metadata = required(body, "metadata")
    check_metadata("metadata", metadata)
    return cast("dict[str, str]", metadata)


def chat_object(chat: StoredChat) -> dict[str, Any]:
    """Give the completion as it was answered, with its metadata."""
    return {**chat.completion, "metadata": dict(chat.metadata)}


def message_objects(chat: StoredChat) -> list[dict[str, Any]]:
    """Give the messages that were asked, each with an id made of the chat's and its place."""
    return [_message(f"{chat.id}-{place}", each) for place, each in enumerate(chat.messages)]


def _message(message_id: str, message: Mapping[str, Any]) -> dict[str, Any]:
    content: Any = message.get("content")
    parts: list[Any] | None = None
    if isinstance(content, list):
        parts = [part for part in cast("list[Any]", content) if part.get("type") in _SHOWN_PARTS]
        content = None
    told = {name: value for name, value in message.items() if value is not None}
    return {"refusal": None, **told, "id": message_id, "content": content, "content_parts": parts}
