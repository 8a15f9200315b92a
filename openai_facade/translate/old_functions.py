"""The old `functions` of a chat as today's tools, and today's answer in the old form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

Message = dict[str, Any]


def is_old(body: Mapping[str, Any]) -> bool:
    """Tell whether a checked chat wants its answer in the old form."""
    return bool(body.get("functions"))


def with_tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """Give a checked chat in today's form: the tools, the choice and the history.

    The old form has one call a message, so the model is asked for no more.
    """
    today = dict(body)
    functions: list[dict[str, Any]] = today.pop("functions", None) or []
    choice = today.pop("function_call", None)
    if functions:
        today["tools"] = [{"type": "function", "function": each} for each in functions]
        today["parallel_tool_calls"] = False
        if isinstance(choice, str):
            today["tool_choice"] = choice
        elif choice is not None:
            today["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    today["messages"] = history(cast("list[Message]", body["messages"]))
    return today


def history(messages: list[Message]) -> list[Message]:
    """Give the messages with calls that have ids: a result of the old form answers the last call of its name."""
    if not any(each.get("function_call") or each["role"] == "function" for each in messages):
        return messages
    told: list[Message] = []
    open_calls: dict[str, str] = {}
    for index, message in enumerate(messages):
        call: Mapping[str, Any] | None = message.get("function_call")
        if message["role"] == "function":
            told.append(_result(message, open_calls.pop(message["name"], None)))
        elif call is None:
            told.append(message)
        else:
            open_calls[call["name"]] = f"call_old_{index}"
            told.append(_calling(message, call, open_calls[call["name"]]))
    return told


def _calling(message: Message, call: Mapping[str, Any], call_id: str) -> Message:
    rest = {name: value for name, value in message.items() if name != "function_call"}
    function = {"name": call["name"], "arguments": call["arguments"]}
    made = {"id": call_id, "type": "function", "function": function}
    return {"content": None, **rest, "tool_calls": [*(rest.get("tool_calls") or ()), made]}


def _result(message: Message, call_id: str | None) -> Message:
    content = message.get("content") or ""
    if call_id is None:  # of no call that is there: a tool message would be refused
        return {"role": "user", "content": f"Result of {message['name']}: {content}"}
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def old_completion(completion: dict[str, Any]) -> dict[str, Any]:
    """Give a completion in the old form: the first call of each choice is its `function_call`."""
    choices = [_old_choice(choice) for choice in completion.get("choices") or ()]
    return {**completion, "choices": choices}


def _old_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = dict(choice["message"])
    calls: list[dict[str, Any]] = message.pop("tool_calls", None) or []
    if calls:
        message["function_call"] = calls[0]["function"]
    return {**choice, "message": message, "finish_reason": _old_reason(choice)}


def old_chunk(chunk: dict[str, Any]) -> dict[str, Any]:
    """Give a chunk in the old form; pieces of a second call are left out."""
    choices: list[dict[str, Any]] = []
    for choice in chunk.get("choices") or ():
        delta = dict(choice.get("delta") or {})
        for piece in delta.pop("tool_calls", None) or ():
            function: dict[str, Any] = piece.get("function") or {}
            if not piece.get("index") and function:
                delta["function_call"] = function
        choices.append({**choice, "delta": delta, "finish_reason": _old_reason(choice)})
    return {**chunk, "choices": choices}


def _old_reason(choice: Mapping[str, Any]) -> str | None:
    reason: str | None = choice.get("finish_reason")
    return "function_call" if reason == "tool_calls" else reason
