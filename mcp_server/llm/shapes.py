"""The shapes of what an upstream answers: checked once where it comes in, relied on everywhere behind."""

# JSON of any shape is looked at here.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from types import NoneType
from typing import Any

_MOST_INDEX = 1000
_TEXT = (str, NoneType)
_COUNT = (int, NoneType)
_SAID = {
    "content": (str, list, NoneType),  # some upstreams send parts
    "refusal": _TEXT,
    "reasoning_content": _TEXT,
    "reasoning": _TEXT,
}
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def fits(answer: dict[str, Any], said: str) -> bool:
    """Tell whether a chunk (`said` is `delta`) or a whole answer (`message`) can be read.

    Where null stands for what must be there, or nothing does, it is put in: choices, an index.
    """
    choices: Any = answer.get("choices")
    if type(choices) is list and len(choices) == 1 and answer.get("usage") is None:
        choice: Any = choices[0]
        if type(choice) is dict and _is_plain(choice, said):
            return True
    if choices is None:
        answer["choices"] = choices = []
    usage: Any = answer.get("usage")
    if usage is not None and not _counts(usage):
        return False
    return isinstance(choices, list) and all(_choice(each, said) for each in choices)


def _is_plain(choice: dict[str, Any], said: str) -> bool:
    """Tell whether it is a piece of text and nothing else, as nearly all are: they must cost nothing."""
    message = choice.get(said)
    return (
        type(message) is dict
        and len(message) == 1
        and type(message.get("content")) is str
        and choice.get("index") == 0
        and choice.get("finish_reason") is None
        and choice.get("logprobs") is None
    )


def _counts(usage: Any) -> bool:
    return isinstance(usage, dict) and all(isinstance(usage.get(name), _COUNT) for name in _COUNTS)


def _choice(choice: Any, said: str) -> bool:
    if not isinstance(choice, dict):
        return False
    fields: dict[str, Any] = choice
    if fields.get("index") is None:
        fields["index"] = 0
    if not _is_index(fields["index"]) or not isinstance(fields.get("finish_reason"), _TEXT):
        return False
    message = fields.get(said)
    if message is None:
        return _logprobs(fields.get("logprobs"))
    return isinstance(message, dict) and _message(message) and _logprobs(fields.get("logprobs"))


def _message(message: dict[str, Any]) -> bool:
    if not all(isinstance(message.get(name), kinds) for name, kinds in _SAID.items()):
        return False
    calls: Any = message.get("tool_calls")
    return calls is None or (isinstance(calls, list) and all(map(_call, calls)))


def _call(call: Any) -> bool:
    if not isinstance(call, dict):
        return False
    fields: dict[str, Any] = call
    index = fields.get("index")
    if (index is not None and not _is_index(index)) or not isinstance(fields.get("id"), _TEXT):
        return False
    return all(_named(fields.get(kind)) for kind in ("function", "custom"))


def _named(given: Any) -> bool:
    names = ("name", "arguments", "input")
    return given is None or (
        isinstance(given, dict) and all(isinstance(given.get(name), _TEXT) for name in names)
    )


def _logprobs(given: Any) -> bool:
    if given is None:
        return True
    tokens: Any = given.get("content") if isinstance(given, dict) else given
    return tokens is None or (
        isinstance(tokens, list) and all(isinstance(token, dict) for token in tokens)
    )


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _MOST_INDEX
