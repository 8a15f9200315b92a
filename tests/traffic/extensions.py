"""What this server adds to OpenAI's document, and where the document is narrower than OpenAI's own API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Extension:
    """Something of ours: `remove` takes it out of a request or an answer, and says whether it was there."""

    name: str
    reason: str
    paths: frozenset[str]
    remove: Callable[[Any], bool]


def _mcp_tools(body: Any) -> bool:
    tools = body.get("tools") if isinstance(body, dict) else None
    if not isinstance(tools, list):
        return False
    kept = [tool for tool in tools if not (isinstance(tool, dict) and tool.get("type") == "mcp")]
    found = len(kept) < len(tools)
    body["tools"] = kept
    if found and not kept:
        del body["tools"]
        body.pop("tool_choice", None)
    return found


def _loose_functions(body: Any) -> bool:
    tools = body.get("tools") if isinstance(body, dict) else None
    loose = [
        tool
        for tool in (tools if isinstance(tools, list) else [])
        if isinstance(tool, dict) and tool.get("type") == "function" and "strict" not in tool
    ]
    for tool in loose:
        tool["strict"] = None
    return bool(loose)


EXTENSIONS = (
    Extension(
        "mcp tools in chat",
        "OpenAI has them in responses only; a chat opts into this server's tools in the same form",
        frozenset({"/chat/completions"}),
        _mcp_tools,
    ),
    Extension(
        "functions of responses without strict",
        "the document demands the field, OpenAI's own API does not, and some clients leave it out",
        frozenset({"/responses"}),
        _loose_functions,
    ),
)

# Faults that OpenAI's own API has against its document, as patterns of what a check tells.
DEVIATIONS = (
    r"^(tools|stream|metadata|stop): null is not of type",  # some clients write what they leave out
    r"(^|/)usage: null is not of type",  # chunks before the last; a response that has not ended
    r"^tools/\d+/function/\w+: null is not of type",  # what clients send for a tool without parameters
    r"logprobs: null is not of type",
    r"^input/\d+/type: .mcp_approval_response. is not",  # it demands a request_id that no SDK has
    r"^input/\d+: .* is valid under more than one of the schemas",  # messages, in two of its forms
    r"^input/\d+/type: .message. is not one of .compaction_trigger",  # the same, of those that say so
    # Custom tools in a stream of a chat: it has them in whole answers only.
    r"^choices/\d+/delta/tool_calls/\d+/type: .custom. is not one of .function.",
    # Pieces of a streamed completion; it knows only the last one.
    r"^choices/\d+/finish_reason: null is not (of type|one of \"stop\", \"length\" or \"content)",
    # The messages of a stored chat: those that were asked, in its own example too.
    r"^data/\d+/role: \"(system|developer|user|tool|function)\" is not one of \"assistant\"",
    r"embedding: \".*\" is not of type \"array\"",  # encoding_format base64, which the SDK asks for
    r"expires_(at|after): null is not of type",
)
