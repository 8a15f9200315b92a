"""A conversation that is too long for its model, without its oldest part: truncation `auto`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SYSTEM = frozenset({"system", "developer"})


def shortened(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Drop the older half of what can be dropped; None if there is nothing.

    System messages stay, and so does everything from the last user message on; what remains begins
    with a user message, so that no result stands without its call.
    """
    kept = [message for message in messages if message["role"] in _SYSTEM]
    talk = [message for message in messages if message["role"] not in _SYSTEM]
    starts = [index for index, message in enumerate(talk) if message["role"] == "user"]
    later = [index for index in starts if index > 0]
    if not later:
        return None
    middle = len(talk) // 2
    cut = next((index for index in later if index >= middle), later[-1])
    return [*kept, *talk[cut:]]
