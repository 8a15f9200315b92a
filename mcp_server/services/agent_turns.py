"""Items of a conversation as chat messages, and what a run said as such items; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

Item: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]

# What a model gets to read of a long conversation, the newest of it.
MOST_MESSAGES = 200
MOST_CHARS = 200_000

_SPOKEN = frozenset({"user", "assistant", "system", "developer"})
_TEXTS = frozenset({"input_text", "output_text", "text"})


def messages_of(items: Sequence[Item]) -> list[Message]:
    """Return what people and models said in a conversation, oldest first, as chat messages.

    Calls of tools and their results are left out, and so is what is older than the last 200 messages
    or 200,000 characters; what is left begins with a user's message.
    """
    spoken = [message for item in items if (message := _message(item)) is not None]
    kept: list[Message] = []
    size = 0
    for message in reversed(spoken[-MOST_MESSAGES:]):
        size += len(str(message["content"]))
        if size > MOST_CHARS:
            break
        kept.insert(0, message)
    if len(kept) == len(spoken):
        return kept
    while kept and kept[0]["role"] != "user":
        kept.pop(0)
    return kept


def items_of(run: str, messages: Iterable[Mapping[str, Any]]) -> list[Item]:
    """Return messages as items whose ids are always the same for this run."""
    name = run.removeprefix("run_")
    items: list[Item] = []
    for number, message in enumerate(messages):
        parts = _parts(message)
        if message.get("role") in _SPOKEN and parts:
            items.append(
                {
                    "id": f"msg_{name}{number:04x}",
                    "type": "message",
                    "role": message["role"],
                    "status": "completed",
                    "content": parts,
                }
            )
    return items


def _message(item: Item) -> Message | None:
    if item.get("type") != "message" or item.get("role") not in _SPOKEN:
        return None
    parts = [_chat_part(part) for part in item["content"]]
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if all(part["type"] == "text" for part in known):
        return {"role": item["role"], "content": "\n".join(part["text"] for part in known)}
    return {"role": item["role"], "content": known}


def _chat_part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": part["text"]}
    if kind == "refusal":
        return {"type": "text", "text": part["refusal"]}
    if kind == "input_image" and part.get("image_url"):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    return None


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the content of a chat message as the parts of an item."""
    own = message.get("role") == "assistant"
    content: Any = message.get("content") or message.get("refusal") or []
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    given = cast("list[Any]", content) if isinstance(content, list) else []
    parts = [
        _item_part(cast("dict[str, Any]", part), own) for part in given if isinstance(part, dict)
    ]
    return [part for part in parts if part is not None]


def _item_part(part: Mapping[str, Any], own: bool) -> dict[str, Any] | None:
    text: Any = part.get("text")
    if part.get("type") in _TEXTS and isinstance(text, str):
        if own:
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "input_text", "text": text}
    image: Any = part.get("image_url")
    if isinstance(image, dict) and not own:
        url: Any = cast("dict[str, Any]", image).get("url")
        if isinstance(url, str):
            return {"type": "input_image", "image_url": url, "detail": "auto"}
    return None
