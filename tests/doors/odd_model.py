"""An OpenAI-compatible upstream that answers as the last user message, a JSON object, tells it to."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

LOGPROB = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}


class OddModel:
    """Keeps the requests. `{"deltas": [...], "finish": "stop", "refuse": {...}, "break": true}` is obeyed.

    `{"steps": [{"tool": NAME, "arguments": {...}}, ...], "say": TEXT}`: one call after the other.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "odd", "object": "model"}]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        wanted = _wanted(body["messages"])
        too_long = wanted.get("most_messages", 1000) < len(body["messages"])
        refusal = _TOO_LONG if too_long else wanted.get("refuse")
        if refusal is not None:
            return JSONResponse({"error": refusal}, status_code=refusal.get("status", 400))
        wanted |= _step(wanted, body["messages"])
        return StreamingResponse(_events(wanted), media_type="text/event-stream")


_TOO_LONG: dict[str, Any] = {
    "message": "too long",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}


def _wanted(messages: list[dict[str, Any]]) -> dict[str, Any]:
    for message in reversed(messages):
        if message["role"] == "user":
            content = message["content"]
            text = content if isinstance(content, str) else content[0]["text"]
            return json.loads(text)
    return {}


def _step(wanted: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Give what the next of the steps says, by how many results there are since the user spoke."""
    if "steps" not in wanted:
        return {}
    asked = max(index for index, each in enumerate(messages) if each["role"] == "user")
    made = sum(each["role"] == "tool" for each in messages[asked:])
    if made >= len(wanted["steps"]):
        return {"deltas": [{"content": wanted["say"]}]}
    step = wanted["steps"][made]
    function = {"name": step["tool"], "arguments": json.dumps(step["arguments"])}
    call = {"index": 0, "id": f"call_{asked}_{made}", "type": "function", "function": function}
    return {"deltas": [{"content": None, "tool_calls": [call]}], "finish": "tool_calls"}


async def _events(wanted: dict[str, Any]) -> AsyncGenerator[str]:
    head = {"id": "chatcmpl-1", "created": 1, "model": "odd", "object": "chat.completion.chunk"}
    for delta in wanted.get("deltas", [{"content": "yes"}]):
        logprobs = {"content": [LOGPROB]} if wanted.get("logprobs") else None
        choice = {"index": 0, "delta": delta, "finish_reason": None, "logprobs": logprobs}
        yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
    if wanted.get("break"):
        return
    last = {"index": 0, "delta": {}, "finish_reason": wanted.get("finish", "stop")}
    yield f"data: {json.dumps({**head, 'choices': [last]})}\n\n"
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"
