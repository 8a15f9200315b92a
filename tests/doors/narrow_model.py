"""An OpenAI-compatible upstream with a small context, which reads notes one after the other and then says so."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

_NOTE = re.compile(r"note (\d+)")


class NarrowModel:
    """Refuses conversations of over `most` characters, as OpenAI does; a token has four of them.

    It goes on with the note after the last one of which it reads, and is done after the one that the
    user's words name. `read` are the conversations that it took, `summed_up` the texts that it summed up.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.read: list[list[dict[str, Any]]] = []
        self.summed_up: list[str] = []
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "narrow", "object": "model"}]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        messages: list[dict[str, Any]] = body["messages"]
        texts = [str(message.get("content") or "") for message in messages]
        size = sum(map(len, texts))
        if size > self.most:
            said = {"message": "too long", "type": "invalid_request_error", "param": "messages"}
            return JSONResponse({"error": {**said, "code": "context_length_exceeded"}}, 400)
        usage = {"prompt_tokens": size // 4, "completion_tokens": 1, "total_tokens": size // 4 + 1}
        seen = max((int(number) for text in texts for number in _NOTE.findall(text)), default=0)
        if "You sum up" in texts[0]:
            self.summed_up.append(texts[1])
            message = {"role": "assistant", "content": f"I have read up to note {seen}."}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            head = {
                "id": "chatcmpl-1",
                "created": 1,
                "model": "narrow",
                "object": "chat.completion",
            }
            return JSONResponse({**head, "choices": [choice], "usage": usage})
        self.read.append(messages)
        wanted = int(next(t for t in map(_READ.search, texts) if t)[1])
        delta = _call(seen + 1) if seen < wanted else {"content": f"I read {seen} notes."}
        return StreamingResponse(_events(delta, usage), media_type="text/event-stream")


_READ = re.compile(r"Read (\d+) of them")


def _call(number: int) -> dict[str, Any]:
    function = {"name": "kv_get", "arguments": json.dumps({"key": f"note-{number}"})}
    call = {"index": 0, "id": f"call_{number}", "type": "function", "function": function}
    return {"content": None, "tool_calls": [call]}


async def _events(delta: dict[str, Any], usage: dict[str, Any]) -> AsyncGenerator[str]:
    head = {"id": "chatcmpl-1", "created": 1, "model": "narrow", "object": "chat.completion.chunk"}
    reason = "tool_calls" if "tool_calls" in delta else "stop"
    for each, ended in ((delta, None), ({}, reason)):
        choice = {"index": 0, "delta": each, "finish_reason": ended}
        yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
    yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"
