"""Conversations: items in order, that any number of responses go on from, one at a time."""

from __future__ import annotations

from mcp_server.services.conversations.rows import (
    MOST_ITEMS,
    Conversation,
    ConversationLocked,
    Item,
    ItemExists,
    ItemPage,
    UnknownCursor,
)
from mcp_server.services.conversations.service import ConversationService, conversation_uri

__all__ = [
    "MOST_ITEMS",
    "Conversation",
    "ConversationLocked",
    "ConversationService",
    "Item",
    "ItemExists",
    "ItemPage",
    "UnknownCursor",
    "conversation_uri",
]
