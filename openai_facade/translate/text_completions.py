"""Completions of a text as chats of one message, and their answers as completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mcp_server.llm import ChatRequest

DEFAULT_TOKENS = 16
"""What OpenAI's document gives to who sets no limit."""

_OWN = frozenset({"prompt", "echo", "best_of", "suffix", "logprobs", "stream", "stream_options"})
_ENDS = frozenset({"stop", "length", "content_filter"})


def chat_of(body: Mapping[str, Any], prompt: str, model: str) -> ChatRequest:
    """Give the chat that asks for one prompt; fields that completions do not know go along."""
    kept = {name: value for name, value in body.items() if name not in _OWN}
    chat: ChatRequest = {"max_tokens": DEFAULT_TOKENS, **kept}
    if chat["max_tokens"] is None:
        chat["max_tokens"] = DEFAULT_TOKENS
    if body.get("logprobs") is not None:
        chat |= {"logprobs": True, "top_logprobs": body["logprobs"]}
    return {**chat, "model": model, "messages": [{"role": "user", "content": prompt}]}


class Texts:
    """Makes the choices of one prompt: `first` is the index of its first one, `echo` what each begins with."""

    def __init__(self, first: int, echo: str) -> None:
        self._first = first
        self._echo = echo
        self._lengths: dict[int, int] = {}

    def whole(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        """Give a choice of a whole chat."""
        message: Mapping[str, Any] = choice.get("message") or {}
        return self._choice(choice, _text(message), choice.get("finish_reason"))

    def piece(self, choice: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give a choice of a chunk; None if nothing of it shows in a completion."""
        delta: Mapping[str, Any] = choice.get("delta") or {}
        text = _text(delta)
        reason: str | None = choice.get("finish_reason")
        begun = choice.get("index", 0) in self._lengths
        if not text and reason is None and (begun or not self._echo):
            return None
        return self._choice(choice, text, reason)

    def _choice(self, choice: Mapping[str, Any], text: str, reason: str | None) -> dict[str, Any]:
        index: int = choice.get("index", 0)
        if index not in self._lengths:
            text = self._echo + text
        begun = self._lengths.setdefault(index, 0)
        self._lengths[index] += len(text)
        return {
            "text": text,
            "index": self._first + index,
            "logprobs": log_probabilities(choice.get("logprobs"), begun),
            "finish_reason": reason if reason is None or reason in _ENDS else "stop",
        }


def _text(message: Mapping[str, Any]) -> str:
    """Return what a message says; some upstreams answer in parts."""
    content: str | Sequence[object] = message.get("content") or ""
    if isinstance(content, str):
        return content
    parts = (cast("Mapping[str, object]", part) for part in content if isinstance(part, Mapping))
    return "".join(text for part in parts if isinstance(text := part.get("text"), str))


def log_probabilities(told: Mapping[str, Any] | None, offset: int) -> dict[str, Any] | None:
    """Give a chat's log probabilities as completions have them; `offset` is where the text begins."""
    tokens: Sequence[Mapping[str, Any]] = (told or {}).get("content") or ()
    if not tokens:
        return None
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [
            {each["token"]: each["logprob"] for each in token.get("top_logprobs") or ()}
            for token in tokens
        ],
        "text_offset": offsets,
    }
