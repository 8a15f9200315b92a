"""A model that answers what it was told, and from some request on keeps its clients waiting until they leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.doors.live import serving


class SlowModel:
    """`hold_after` is how many requests are answered; `asked` holds what was said in each of all.

    The first `busy_for` of them are refused as too many, to be asked again at once.
    """

    def __init__(self) -> None:
        self.reset()
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    def reset(self) -> None:
        self.asked: list[str] = []
        self.answered: list[str] = []
        self.hold_after: int | None = None
        self.busy_for = 0
        self._held = 0
        self._left = 0

    async def until_held(self) -> None:
        """Wait for the first client that has to wait."""
        await _until(lambda: self._held > 0)

    async def until_left(self) -> None:
        """Wait until every client that had to wait has left."""
        await _until(lambda: self._held > 0 and self._left == self._held)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "slow", "object": "model"}]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        said = body["messages"][-1]["content"]
        self.asked.append(said)
        if len(self.asked) <= self.busy_for:
            error = {"message": "too many", "type": "requests", "param": None, "code": "rate_limit"}
            return JSONResponse({"error": error}, 429, headers={"retry-after-ms": "1"})
        if self.hold_after is not None and len(self.asked) > self.hold_after:
            self._held += 1
            while not await request.is_disconnected():
                await asyncio.sleep(0.02)
            self._left += 1
            return Response(status_code=503)
        self.answered.append(said)
        if body.get("stream"):
            return StreamingResponse(_events(f"echo {said}"), media_type="text/event-stream")
        message = {"role": "assistant", "content": f"echo {said}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        head = {"id": "chatcmpl-1", "created": 1, "model": "slow", "object": "chat.completion"}
        return JSONResponse({**head, "choices": [choice], "usage": usage})


async def _events(text: str) -> AsyncGenerator[str]:
    head = {"id": "chatcmpl-1", "created": 1, "model": "slow", "object": "chat.completion.chunk"}
    for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def serving_slow() -> AsyncGenerator[tuple[SlowModel, str]]:
    model = SlowModel()
    async with serving(model.app) as url:
        yield model, url
