"""Turns with calls of both sides: the ids that the client sees, and the whole turn where they come back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mcp_server.llm.wire import list_of, object_of
from mcp_server.services.kept_turns import KeptTurn

# At most 40 characters, as OpenAI allows. Nobody can guess one, and no model writes one.
_CALL = re.compile(r"call_kept_([0-9a-f]{24})_([0-9]{1,3})")


def with_kept_ids(calls: Sequence[dict[str, Any]], turn: str) -> list[dict[str, Any]]:
    """Give the client's calls with ids that lead back to the turn."""
    return [{**call, "id": f"call_kept_{turn}_{index}"} for index, call in enumerate(calls)]


def turns_in(messages: Sequence[Mapping[str, Any]]) -> set[str]:
    """Give the turns that the calls in a chat's messages lead to."""
    return {turn for message in messages for turn, _ in _calls_of(message)}


def resumed(
    messages: Sequence[dict[str, Any]], kept: Mapping[str, KeptTurn]
) -> list[dict[str, Any]]:
    """Give the messages with each kept turn whole, in the place of what the client saw of it.

    Results of the client follow under the ids that the model gave. A turn that is not kept any more
    stays as the client tells it.
    """
    told: list[dict[str, Any]] = []
    placed: set[str] = set()
    for message in messages:
        turns = {turn for turn, _ in _calls_of(message)} & kept.keys()
        if turns:
            for turn in sorted(turns - placed):
                told += kept[turn].transcript
            placed |= turns
        else:
            told.append(_result(message, kept))
    return told


def _result(message: dict[str, Any], kept: Mapping[str, KeptTurn]) -> dict[str, Any]:
    found = _CALL.fullmatch(str(message.get("tool_call_id")))
    if found is None or found[1] not in kept:
        return message
    calls, index = kept[found[1]].calls, int(found[2])
    return {**message, "tool_call_id": calls[index]} if index < len(calls) else message


def _calls_of(message: Mapping[str, Any]) -> list[tuple[str, str]]:
    if message.get("role") != "assistant":
        return []
    ids = [str(object_of(call).get("id")) for call in list_of(message.get("tool_calls"))]
    return [(found[1], found[2]) for each in ids if (found := _CALL.fullmatch(each))]
