"""Say a conversation in the words of a chat template that knows nothing of tools."""

from __future__ import annotations

from typing import Any

from mcp_server.errors import InvalidInput
from mcp_server.llm import ChatRequest, UpstreamError
from mcp_server.llm.wire import calls_of, list_of, messages_of, object_of, text_of

_ROLES = {"developer": "system", "tool": "user", "function": "user"}
_CONTEXT_MESSAGES = 6
_CONTEXT_CHARACTERS = 400


def render(request: ChatRequest, upstream: str) -> list[dict[str, str]]:
    """Give the messages as system, user and assistant texts.

    Calls and results become text. Many templates refuse two messages of one role in a row and a
    system message that is not first, so those are joined. Raises InvalidInput if there is no
    message, UpstreamError for content that is not text.
    """
    messages = messages_of(request)
    if not messages:
        raise InvalidInput("messages must hold at least one message.", param="messages")
    names = _call_names(messages)
    said: list[dict[str, str]] = []
    for message in messages:
        role = str(message.get("role"))
        text = _text(message, names, upstream)
        role = _ROLES.get(role, role)
        if role == "system":
            said.insert(0, {"role": role, "content": text})
        else:
            said.append({"role": role, "content": text})
    system = [each["content"] for each in said if each["role"] == "system"][::-1]
    rest = [each for each in said if each["role"] != "system"]
    first = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    return _joined([*first, *rest])


def last_request(request: ChatRequest) -> str:
    """Give the text of the last user message."""
    users = [each for each in messages_of(request) if each.get("role") == "user"]
    return text_of(users[-1].get("content")) if users else ""


def calls_since_request(request: ChatRequest) -> list[tuple[str, str]]:
    """Give name and arguments of the calls made after the last user message."""
    made: list[tuple[str, str]] = []
    for message in messages_of(request):
        if message.get("role") == "user":
            made.clear()
        made += [(name, arguments) for _, name, arguments in calls_of(message)]
    return made


def context_of(request: ChatRequest, upstream: str) -> str:
    """Give what else was said, shortened, one line a message; empty if nothing was."""
    messages = messages_of(request)
    users = [i for i, each in enumerate(messages) if each.get("role") == "user"]
    names = _call_names(messages)
    others = [each for i, each in enumerate(messages) if not users or i != users[-1]]
    lines = [
        f"{each.get('role')}: {_text(each, names, upstream)[:_CONTEXT_CHARACTERS]}"
        for each in others
    ]
    return "\n".join(lines[-_CONTEXT_MESSAGES:])


def _call_names(messages: list[dict[str, Any]]) -> dict[str, str]:
    return {key: name for message in messages for key, name, _ in calls_of(message)}


def _text(message: dict[str, Any], names: dict[str, str], upstream: str) -> str:
    for part in map(object_of, list_of(message.get("content"))):
        if part.get("type") not in {"text", "refusal"}:
            body = {"message": f"This model reads text only, not {part.get('type')}."}
            raise UpstreamError(400, {**body, "param": "messages"}, upstream=upstream)
    text = text_of(message.get("content"))
    if message.get("role") in {"tool", "function"}:
        name = names.get(str(message.get("tool_call_id")), message.get("name") or "the function")
        return f"Result of {name}: {text}"
    calls = [f"{name}({arguments})" for _, name, arguments in calls_of(message)]
    return "\n".join(part for part in [text, *calls] if part)


def _joined(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    joined: list[dict[str, str]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1]["content"] += "\n\n" + message["content"]
        else:
            joined.append(dict(message))
    return joined
