"""One call of a tool as an item of a response: how each kind is opened, written, made and ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mcp_server.llm.custom_tools import input_of
from mcp_server.llm.wire import object_of, value_of
from openai_facade.translate.response_object import Item
from openai_facade.translate.response_stream import Event, Stream

Kind: TypeAlias = Literal["function", "custom", "mcp", "approval", "search"]


@dataclass(frozen=True, slots=True)
class CallKind:
    """What the call of a function becomes: `label` and `tool` are of an MCP server's."""

    kind: Kind
    label: str = ""
    tool: str = ""

    @property
    def on_server(self) -> bool:
        """Tell whether this server makes the call itself."""
        return self.kind in {"mcp", "search"}


class OpenCall:
    """A call in the making; this form of it is the client's function."""

    def __init__(self, stream: Stream, kind: CallKind, call: str, name: str) -> None:
        self.kind = kind
        self.item: Item = {}
        self._stream = stream
        self._call = call
        self._name = name
        self._index = 0
        self._pieces: list[str] = []

    @property
    def arguments(self) -> str:
        """What the model has written so far."""
        return "".join(self._pieces)

    def open(self, more: Mapping[str, Any]) -> list[Event]:
        """Begin the item."""
        return [self._add(self._empty() | dict(more))]

    def write(self, arguments: str) -> list[Event]:
        """Add to the arguments."""
        self._pieces.append(arguments)
        return (
            [self._of("response.function_call_arguments.delta", delta=arguments)]
            if arguments
            else []
        )

    def start(self) -> list[Event]:
        """Tell that this server makes the call."""
        return []

    def end(self, text: str, *, is_error: bool, results: list[Item] | None) -> list[Event]:
        """Tell what came of it."""
        del text, is_error, results
        return []

    def hand_over(self) -> list[Event]:
        """End an item that is for the client to go on with."""
        done = self._of(
            "response.function_call_arguments.done", name=self._name, arguments=self.arguments
        )
        whole = self.item | {"status": "completed", "arguments": self.arguments}
        return [done, self._stream.done(self._index, whole)]

    def cut(self) -> list[Event]:
        """End an item in the middle of its arguments."""
        whole = self.item | {"status": "incomplete", "arguments": self.arguments}
        return [self._stream.done(self._index, whole)]

    def _empty(self) -> Item:
        return {
            "id": self._stream.new_id("function_call"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": self._call,
            "name": self._name,
            "arguments": "",
        }

    def _add(self, item: Item) -> Event:
        self.item = item
        self._index, added = self._stream.add(item)
        return added

    def _of(self, kind: str, **fields: Any) -> Event:
        return self._stream.of_item(kind, self._index, **fields)


class _Custom(OpenCall):
    """A custom tool: the model wrote the arguments of a function that stands for it."""

    def write(self, arguments: str) -> list[Event]:
        self._pieces.append(arguments)
        return []

    def hand_over(self) -> list[Event]:
        given = input_of(self.arguments)
        whole = self.item | {"status": "completed", "input": given}
        delta = [self._of("response.custom_tool_call_input.delta", delta=given)] if given else []
        done = self._of("response.custom_tool_call_input.done", input=given)
        return [*delta, done, self._stream.done(self._index, whole)]

    def cut(self) -> list[Event]:
        return [self._stream.done(self._index, self.item | {"status": "incomplete"})]

    def _empty(self) -> Item:
        return {
            "id": self._stream.new_id("custom_tool_call"),
            "type": "custom_tool_call",
            "status": "in_progress",
            "call_id": self._call,
            "name": self._name,
            "input": "",
        }


class _Mcp(OpenCall):
    """A tool of an MCP server."""

    def open(self, more: Mapping[str, Any]) -> list[Event]:
        added = self._add(self._empty() | dict(more))
        return [added, self._of("response.mcp_call.in_progress")]

    def write(self, arguments: str) -> list[Event]:
        self._pieces.append(arguments)
        return [self._of("response.mcp_call_arguments.delta", delta=arguments)] if arguments else []

    def start(self) -> list[Event]:
        return [self._of("response.mcp_call_arguments.done", arguments=self.arguments)]

    def end(self, text: str, *, is_error: bool, results: list[Item] | None) -> list[Event]:
        del results
        whole = self.item | {"arguments": self.arguments}
        if is_error:
            content = [{"type": "text", "text": text}]
            error = {"type": "mcp_tool_execution_error", "content": content}
            whole |= {"status": "failed", "error": error}
        else:
            whole |= {"status": "completed", "output": text}
        ended = self._of(f"response.mcp_call.{whole['status']}")
        return [ended, self._stream.done(self._index, whole)]

    def _empty(self) -> Item:
        return {
            "id": self._stream.new_id("mcp_call"),
            "type": "mcp_call",
            "status": "in_progress",
            "server_label": self.kind.label,
            "name": self.kind.tool,
            "arguments": "",
            "approval_request_id": None,
            "output": None,
            "error": None,
        }


class _Approval(OpenCall):
    """A call that a person has to allow: it shows when it is whole, as a question."""

    def open(self, more: Mapping[str, Any]) -> list[Event]:
        del more
        return []

    def write(self, arguments: str) -> list[Event]:
        self._pieces.append(arguments)
        return []

    def hand_over(self) -> list[Event]:
        item: Item = {
            "id": self._stream.approval_id(),
            "type": "mcp_approval_request",
            "server_label": self.kind.label,
            "name": self.kind.tool,
            "arguments": self.arguments or "{}",
        }
        return [self._add(item), self._stream.done(self._index, item)]

    def cut(self) -> list[Event]:
        return []


class _Search(OpenCall):
    """A search in the user's files."""

    def open(self, more: Mapping[str, Any]) -> list[Event]:
        added = self._add(self._empty() | dict(more))
        return [added, self._of("response.file_search_call.in_progress")]

    def write(self, arguments: str) -> list[Event]:
        self._pieces.append(arguments)
        return []

    def start(self) -> list[Event]:
        return [self._of("response.file_search_call.searching")]

    def end(self, text: str, *, is_error: bool, results: list[Item] | None) -> list[Event]:
        del text
        whole = self.item | {"queries": _queries(self.arguments), "results": results}
        if is_error:
            return [self._stream.done(self._index, whole | {"status": "failed", "results": None})]
        ended = self._of("response.file_search_call.completed")
        return [ended, self._stream.done(self._index, whole | {"status": "completed"})]

    def cut(self) -> list[Event]:
        return [self._stream.done(self._index, self.item | {"status": "incomplete"})]

    def _empty(self) -> Item:
        return {
            "id": self._stream.new_id("file_search_call"),
            "type": "file_search_call",
            "status": "in_progress",
            "queries": [],
            "results": None,
        }


_FORMS: dict[Kind, type[OpenCall]] = {
    "function": OpenCall,
    "custom": _Custom,
    "mcp": _Mcp,
    "approval": _Approval,
    "search": _Search,
}


def opened(stream: Stream, kind: CallKind, call: str, name: str) -> OpenCall:
    """Give a call of this kind; `call` is its id and `name` that of the function that stands for it."""
    return _FORMS[kind.kind](stream, kind, call, name)


def _queries(arguments: str) -> list[str]:
    query = object_of(value_of(arguments)).get("query")
    return [query] if isinstance(query, str) else []
