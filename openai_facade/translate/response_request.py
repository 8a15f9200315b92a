"""The request of a response as the chat request that a model gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mcp_server.llm import ChatRequest
from mcp_server.llm.custom_tools import PARAMETERS
from openai_facade.translate.response_calls import CallKind
from openai_facade.translate.response_messages import Message, model_name
from openai_facade.translate.response_search import FUNCTION
from openai_facade.wire.faults import invalid

_SAME = ("temperature", "top_p", "parallel_tool_calls", "presence_penalty", "frequency_penalty")
_LOGPROBS = "message.output_text.logprobs"


def chat_request(
    body: Mapping[str, Any],
    model: str,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    choice: object,
) -> ChatRequest:
    """Give the chat request of a checked body; `model` is the id that the model knows."""
    request: ChatRequest = {"model": model, "messages": list(messages)}
    request |= {name: body[name] for name in _SAME if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        request["max_completion_tokens"] = body["max_output_tokens"]
    if wants_logprobs(body):
        request |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    reasoning: Mapping[str, Any] = body.get("reasoning") or {}
    if reasoning.get("effort") is not None:
        request["reasoning_effort"] = reasoning["effort"]
    request |= _text(body.get("text") or {})
    if tools:
        request["tools"] = list(tools)
    else:
        request.pop("parallel_tool_calls", None)
    if choice is not None:
        request["tool_choice"] = choice
    return request


def wants_logprobs(body: Mapping[str, Any]) -> bool:
    """Tell whether the tokens' probabilities are asked for."""
    return _LOGPROBS in (body.get("include") or ()) or bool(body.get("top_logprobs"))


def function_spec(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Give a function of the client as chat has it."""
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def custom_spec(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Give the function that stands for a custom tool: few upstreams know custom ones.

    A grammar is told to the model; nothing holds it to that.
    """
    described = [tool.get("description") or ""]
    form: Mapping[str, Any] = tool.get("format") or {}
    if form.get("type") == "grammar":
        described.append(
            f"The input must match this {form['syntax']} grammar:\n{form['definition']}"
        )
    function = {
        "name": tool["name"],
        "description": "\n\n".join(part for part in described if part),
        "parameters": PARAMETERS,
    }
    return {"type": "function", "function": function}


def chosen_functions(
    choice: object, calls: Mapping[str, CallKind]
) -> tuple[object, frozenset[str] | None]:
    """Give chat's `tool_choice` (None: leave it out), and which functions the model may see (None: all).

    Raises:
        InvalidRequest: it names a tool that is not among the tools of the request.
    """
    if choice is None or isinstance(choice, str):
        if choice == "required" and not calls:
            raise invalid("tool_choice", "'required' needs at least one tool in 'tools'.")
        return (choice if calls else None), None
    named = cast("Mapping[str, Any]", choice)
    if named["type"] == "allowed_tools":
        seen = frozenset(
            name
            for index, tool in enumerate(named["tools"])
            for name in _named(f"tool_choice.tools[{index}]", tool, calls)
        )
        return named["mode"], seen
    names = _named("tool_choice", named, calls)
    if len(names) == 1:
        return {"type": "function", "function": {"name": names[0]}}, None
    return "required", frozenset(names)


def _named(place: str, choice: Mapping[str, Any], calls: Mapping[str, CallKind]) -> list[str]:
    kind: str = choice["type"]
    name: str | None = choice.get("name")
    if kind == "file_search":
        found = [FUNCTION] if FUNCTION in calls and calls[FUNCTION].kind == "search" else []
    elif kind == "mcp":
        label = choice["server_label"]
        of_server = [each for each, call in calls.items() if call.label == label]
        found = [each for each in of_server if name is None or each == model_name(label, name)]
    else:
        found = [each for each, call in calls.items() if each == name and call.kind == kind]
    if not found:
        told: str = name or choice.get("server_label") or kind
        raise invalid(place, f"{told[:80]!r} is not among the tools of the request.")
    return found


def _text(text: Mapping[str, Any]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if text.get("verbosity") is not None:
        asked["verbosity"] = text["verbosity"]
    form: Mapping[str, Any] = text.get("format") or {}
    if form.get("type") == "json_object":
        asked["response_format"] = {"type": "json_object"}
    elif form.get("type") == "json_schema":
        names = ("name", "description", "schema", "strict")
        schema = {name: form[name] for name in names if form.get(name) is not None}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    return asked
