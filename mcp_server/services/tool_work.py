"""The work of a long tool's run: one call of the tool with the rights of its grant, its result kept whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, InvalidInput, LimitExceeded, Timeout, Unavailable
from mcp_server.runs.context import RunContext
from mcp_server.runs.in_doubt import in_doubt, settled
from mcp_server.runs.record import Outcome
from mcp_server.services.grants import Grant, ScopesNow

# Below what the store cuts: a result is whole, or an error.
MOST_RESULT_BYTES = 3_000_000
_SHOWN = 1000
_RETRYABLE: dict[str, type[AppError]] = {
    kind.code: kind for kind in (Unavailable, Timeout, LimitExceeded)
}


class ToolCall(Protocol):
    """The way to the tool."""

    async def __call__(
        self,
        principal: Principal,
        tool: str,
        arguments: dict[str, Any],
        *,
        key: str,
        run: RunContext,
    ) -> dict[str, Any]:
        """Call the tool inside its run and return its result as the protocol has it.

        Raises:
            AppError: it could not be called, or failed as a request.
        """
        ...


@dataclass(frozen=True, slots=True)
class ToolWork:
    """Executes runs of kind `tool/NAME`.

    The tool is called again from its beginning when the run is resumed, with the same key. One that
    is not idempotent is not, once it began - unless it began to ask something, which it does not do
    half.
    """

    tool: str
    idempotent: bool
    retry_unsure: bool
    call: ToolCall
    scopes_now: ScopesNow

    async def __call__(self, context: RunContext) -> Outcome:
        """Call the tool.

        Raises:
            Unauthenticated: the key that started the run is dead. Unsure: it must not be called again.
            AppError: it could not be called; or a retry can help, and the run has some.
        """
        run = context.run
        grant = Grant(Principal(run.tenant, run.subject, run.grant, run.key_id), self.scopes_now)
        key = context.key("call")

        async def do(_: str) -> dict[str, Any]:
            principal = await grant.now()
            arguments = run.input["arguments"]
            return stored_result(
                await self.call(principal, self.tool, arguments, key=key, run=context)
            )

        if self.idempotent:
            result = await settled(
                lambda: do(key),
                lambda told: told["is_error"] and in_doubt(told["text"]),
                lambda: context.begin("call", repeatable=False, retry_unsure=True),
            )
        else:
            step = f"call/{run.retries}.{_answered(context)}"
            result = await context.step(step, do, repeatable=False, retry_unsure=self.retry_unsure)
        if result["is_error"] and run.max_retries:
            code, _, message = str(result["text"]).partition(": ")
            if code in _RETRYABLE:
                raise _RETRYABLE[code](message)
        return Outcome(status="completed", output=result)


def _answered(context: RunContext) -> int:
    """Count the questions that were answered: each answer lets the tool begin once more."""
    count = 0
    while context.finished(f"ask/{count + 1}"):
        count += 1
    return count


def stored_result(wire: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run keeps of a tool's result: `{text, structured, is_error}`, and whatever else it held.

    A result over 3 MB becomes an error that says so.
    """
    if wire.get("resultType") == "input_required":
        raise InvalidInput("a long tool asks with call.ask, not with an InputRequiredResult")
    content = wire.get("content", [])
    text = "\n".join(item["text"] for item in content if item.get("type") == "text")
    kept: dict[str, Any] = {
        "text": text,
        "structured": wire.get("structuredContent"),
        "is_error": bool(wire.get("isError")),
    }
    if content != [_text(text)]:
        kept["content"] = content
    size = _size(kept)
    if size <= MOST_RESULT_BYTES:
        return kept
    told = (
        f"limit_exceeded: the result has {size} bytes, and a run keeps {MOST_RESULT_BYTES}; store it as "
        f"an object and return its key. It begins: {kept['text'][:_SHOWN]}"
    )
    return {"text": told, "structured": None, "is_error": True}


def wire_result(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tool's result as the protocol has it."""
    result: dict[str, Any] = {
        "content": kept.get("content", [_text(kept["text"])]),
        "isError": kept["is_error"],
    }
    if kept["structured"] is not None:
        result["structuredContent"] = kept["structured"]
    return result


def _size(kept: dict[str, Any]) -> int:
    """Return the number of bytes as the store counts them; of what is far too big, roughly."""
    try:
        size = len(orjson.dumps(kept))
    except TypeError:  # integers beyond 64 bits
        size = 0
    return size if size > MOST_RESULT_BYTES else len(json.dumps(kept))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
