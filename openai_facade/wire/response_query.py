"""The query of `GET /v1/responses/{id}`: whether to stream, and from which event on."""

from __future__ import annotations

from collections.abc import Mapping

from openai_facade.wire.faults import invalid

_MOST_DIGITS = 15
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False, "": False}


def stream_arguments(query: Mapping[str, str]) -> int | None:
    """Give the number after which events are wanted, -1 for all; None if it is no stream.

    Raises:
        InvalidRequest: `stream` is no boolean, `starting_after` no number or without a stream.
    """
    asked = query.get("stream", "").lower()
    if asked not in _BOOLEANS:
        raise invalid("stream", f"expected true or false, but got {asked[:40]!r}.")
    after = query.get("starting_after") or None
    if not _BOOLEANS[asked]:
        if after is not None:
            raise invalid("starting_after", "it is for streams only; send stream=true.")
        return None
    if after is None:
        return -1
    if not (after.isascii() and after.isdigit() and len(after) <= _MOST_DIGITS):
        raise invalid("starting_after", f"expected a sequence number, but got {after[:40]!r}.")
    return int(after)
