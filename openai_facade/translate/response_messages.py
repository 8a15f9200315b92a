"""Items of responses as the chat messages that a model reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mcp_server.function_names import function_name
from mcp_server.llm.custom_tools import arguments_of
from openai_facade.translate.mcp_opt_in import LABEL
from openai_facade.translate.response_object import Item
from openai_facade.translate.response_search import FUNCTION, Sources
from openai_facade.wire.faults import InvalidRequest

Message: TypeAlias = dict[str, Any]

_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})
_BROKEN_OFF = frozenset({"incomplete", "in_progress", "searching", "calling"})
_SILENT = frozenset(
    {"mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "reasoning"}
)


def model_name(label: str, tool: str) -> str:
    """Give the function name of a server's tool: this server's own are not prefixed."""
    return function_name(tool if label == LABEL else f"{label}__{tool}")


def messages_of_items(items: Sequence[Item], sources: Sources) -> list[Message]:
    """Give the messages of a whole context; what searches found is taken into `sources`.

    Calls that stand together become one assistant message, with their results behind it. What a model
    thought is not shown again: no two upstreams agree on how.

    Raises:
        InvalidRequest: a call of the client has no output, or an output no call.
    """
    outputs = _outputs_by_call(items)
    conversation = _Conversation(sources, outputs)
    for item in items:
        conversation.add(item)
    conversation.close()
    lost = outputs.keys() - conversation.answered
    if lost:
        raise _unmatched(f"No tool call found for function call output with call_id {min(lost)}.")
    return conversation.messages


def _outputs_by_call(items: Sequence[Item]) -> dict[str, Item]:
    return {item["call_id"]: item for item in items if item["type"] in _OUTPUTS}


def _unmatched(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="input", wire_code=None)


@dataclass(slots=True)
class _Conversation:
    sources: Sources
    outputs: Mapping[str, Item]
    messages: list[Message] = field(default_factory=list[Message])
    answered: set[str] = field(default_factory=set[str])
    _calls: list[Message] = field(default_factory=list[Message])
    _results: list[Message] = field(default_factory=list[Message])

    def add(self, item: Item) -> None:
        kind = item["type"]
        if kind != "message" and item.get("status") in _BROKEN_OFF:
            return  # half a call: nobody made it
        if kind == "message":
            self.close()
            self.messages.append(_message(item))
        elif kind in _CALLS:
            self._add_call(item["call_id"], item["name"], _CALLS[kind](item))
            self._results.append(self._client_result(item))
        elif kind == "mcp_call":
            name = model_name(item["server_label"], item["name"])
            self._add_call(item["id"], name, item["arguments"])
            self._add_result(item["id"], mcp_text(item))
        elif kind == "file_search_call":
            self._add_search(item)
        elif kind not in _OUTPUTS and kind not in _SILENT:
            raise AssertionError(f"an item of type {kind} was let in")

    def close(self) -> None:
        """End the calls that stand together."""
        if not self._calls:
            return
        last = self.messages[-1] if self.messages else None
        if last is not None and last["role"] == "assistant" and "tool_calls" not in last:
            last["tool_calls"] = self._calls
        else:
            self.messages.append({"role": "assistant", "content": None, "tool_calls": self._calls})
        self.messages += self._results
        self._calls, self._results = [], []

    def _add_call(self, call: str, name: str, arguments: str) -> None:
        function = {"name": name, "arguments": arguments or "{}"}
        self._calls.append({"id": call, "type": "function", "function": function})

    def _add_result(self, call: str, content: Any) -> None:
        self._results.append({"role": "tool", "tool_call_id": call, "content": content})

    def _client_result(self, item: Item) -> Message:
        call = item["call_id"]
        output = self.outputs.get(call)
        if output is None:
            raise _unmatched(f"No tool output found for function call {call}.")
        self.answered.add(call)
        given = output["output"]
        content = given if isinstance(given, str) else _content(given)
        return {"role": "tool", "tool_call_id": call, "content": content}

    def _add_search(self, item: Item) -> None:
        if item.get("results") is None:
            return  # a client sent it back that had not asked to see them
        query = " ".join(item["queries"])
        self._add_call(item["id"], FUNCTION, json.dumps({"query": query}, ensure_ascii=False))
        self._add_result(item["id"], self.sources.show(item["results"]))


def mcp_text(item: Item) -> str:
    """Give what a model reads of the result of an mcp_call."""
    error = item.get("error")
    if error is None:
        return item.get("output") or ""
    if isinstance(error, str):
        return error
    parts = error.get("content")
    if isinstance(parts, list):
        return "\n".join(str(part.get("text", "")) for part in parts)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
    return str(error.get("message") or "the call failed")


def _message(item: Item) -> Message:
    return {"role": item["role"], "content": _content(item["content"])}


def _content(parts: Sequence[Mapping[str, Any]]) -> Any:
    """Give parts as chat has them; text alone becomes one string, which every upstream takes."""
    if all(part["type"] in _TEXTS for part in parts):
        return "\n".join(part[_TEXTS[part["type"]]] for part in parts)
    return [_part(part) for part in parts]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    if kind in _TEXTS:
        return {"type": "text", "text": part[_TEXTS[kind]]}
    if kind == "input_image":
        image = {"url": part.get("image_url"), "detail": part.get("detail", "auto")}
        if part.get("file_id") is not None:
            image = {"file_id": part["file_id"], "detail": image["detail"]}
        return {"type": "image_url", "image_url": image}
    file = {name: part[name] for name in _OF_FILE if part.get(name) is not None}
    return {"type": "file", "file": file}


def _arguments(item: Item) -> str:
    return item["arguments"]


def _custom_arguments(item: Item) -> str:
    return arguments_of(item["input"])


_TEXTS = {"input_text": "text", "output_text": "text", "refusal": "refusal", "text": "text"}
_OF_FILE = ("file_id", "file_data", "file_url", "filename")
_CALLS: dict[str, Callable[[Item], str]] = {
    "function_call": _arguments,
    "custom_tool_call": _custom_arguments,
}
