"""What a model says, or thinks, as one item of a response: opened, told in pieces, closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from openai_facade.translate.response_object import Item
from openai_facade.translate.response_search import Sources
from openai_facade.translate.response_stream import Event, Stream

Kind: TypeAlias = Literal["output_text", "refusal", "reasoning_text"]

REASONING: Kind = "reasoning_text"


def kind_of_field(name: str) -> Kind:
    """Give the kind of part that a field of a chat message becomes."""
    if name == "content":
        return "output_text"
    return "refusal" if name == "refusal" else REASONING


class Speech:
    """One message, or one reasoning item, in the making."""

    def __init__(self, stream: Stream, kind: Kind) -> None:
        self.kind: Kind = kind
        self._stream = stream
        self._index = 0
        self._item: Item = {}
        self._parts: list[dict[str, Any]] = []
        self._part: Kind | None = None
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def open(self) -> list[Event]:
        """Begin the item."""
        if self.kind == REASONING:
            self._item = {
                "id": self._stream.new_id("reasoning"),
                "type": "reasoning",
                "status": "in_progress",
                "summary": [],
                "content": [],
            }
        else:
            self._item = {
                "id": self._stream.new_id("message"),
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
        self._index, added = self._stream.add(self._item)
        return [added]

    def say(self, kind: Kind, text: str, logprobs: Sequence[dict[str, Any]]) -> list[Event]:
        """Add text, in a part of its own if it is of another kind."""
        told: list[Event] = []
        if kind != self._part:
            told = self._close_part([])
            self._part = kind
            told.append(self._of_part("content_part.added", part=_part(kind, "")))
        self._pieces.append(text)
        fields: dict[str, Any] = {"delta": text}
        if kind == "output_text":
            fields["logprobs"] = [_logprob(each) for each in logprobs]
            self._logprobs += fields["logprobs"]
        return [*told, self._of_part(f"{kind}.delta", **fields)]

    def close(self, status: str, sources: Sources) -> list[Event]:
        """End the item, with its citations."""
        text = "".join(self._pieces)
        cited = sources.citations(text) if self._part == "output_text" else []
        told = self._close_part(cited)
        whole = self._item | {"status": status, "content": self._parts}
        return [*told, self._stream.done(self._index, whole)]

    def _close_part(self, cited: list[dict[str, Any]]) -> list[Event]:
        kind = self._part
        if kind is None:
            return []
        text = "".join(self._pieces)
        told = [
            self._of_part("output_text.annotation.added", annotation_index=number, annotation=each)
            for number, each in enumerate(cited)
        ]
        part = _part(kind, text)
        fields: dict[str, Any] = {"refusal" if kind == "refusal" else "text": text}
        if kind == "output_text":
            part |= {"annotations": cited, "logprobs": self._logprobs}
            fields["logprobs"] = self._logprobs
        told.append(self._of_part(f"{kind}.done", **fields))
        told.append(self._of_part("content_part.done", part=part))
        self._parts.append(part)
        self._pieces, self._logprobs, self._part = [], [], None
        return told

    def _of_part(self, kind: str, **fields: Any) -> Event:
        place = len(self._parts)
        return self._stream.of_item(f"response.{kind}", self._index, content_index=place, **fields)


def _part(kind: Kind, text: str) -> dict[str, Any]:
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, "refusal" if kind == "refusal" else "text": text}


def _logprob(given: dict[str, Any]) -> dict[str, Any]:
    """Give a token with all that the wire format requires, and upstreams like to leave out."""
    token = str(given.get("token") or "")
    top: list[dict[str, Any]] = given.get("top_logprobs") or []
    return {
        "token": token,
        "logprob": given.get("logprob") or 0.0,
        "bytes": given.get("bytes") or list(token.encode()),
        "top_logprobs": [
            {
                "token": str(each.get("token") or ""),
                "logprob": each.get("logprob") or 0.0,
                "bytes": each.get("bytes") or list(str(each.get("token") or "").encode()),
            }
            for each in top
        ],
    }
