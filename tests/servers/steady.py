"""`steady` from npm serves OpenAI's own document, and an upstream that answers only what it lets through."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from openai_facade.specification.support import openai_document
from tests.node import BINARIES, OPENAI, install
from tests.servers.ports import free_ports

START_SECONDS = 30.0


@contextmanager
def serve_document(folder: Path) -> Iterator[str]:
    """Serve the document on a free port, and yield its address; what does not fit it is refused with 400."""
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "document.json"
    document.write_text(json.dumps(_self_contained(openai_document())))
    (port,) = free_ports(1)
    program = install(OPENAI) / "@stdy" / "cli" / "steady.js"
    command = [str(BINARIES / "node"), str(program), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--quiet", "--no-color", str(document)],
            env={"PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(f"http://127.0.0.1:{port}", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)  # the program starts the one that serves
        process.wait(START_SECONDS)


def _self_contained(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document without the answers that it keeps outside of its schemas."""
    document = copy.deepcopy(document)
    for operations in document["paths"].values():
        for operation in operations.values():
            if isinstance(operation, dict):
                answers = operation.get("responses", {})
                operation["responses"] = {k: v for k, v in answers.items() if "$ref" not in v}
    return document


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


@dataclass
class StrictUpstream:
    """Asks the document about every request; answers chats and embeddings by itself, all else as the document has it."""

    judge: httpx2.AsyncClient
    asked: list[tuple[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/{path:path}", self._answer, methods=["GET", "POST"])])

    async def _answer(self, request: Request) -> Response:
        path, sent = f"/{request.path_params['path']}", await request.body()
        if path == "/models":
            return JSONResponse({"object": "list", "data": [{"id": "strict", "object": "model"}]})
        kind = request.headers.get("content-type", "")
        said = await self.judge.request(
            request.method, path, content=sent, headers={"content-type": kind}
        )
        body: Any = json.loads(sent) if "json" in kind else None
        self.asked.append((path, body))
        if said.status_code >= 400:
            self.refused.append(f"{path}: {said.text}")
            error = {"message": said.text, "type": "invalid_request_error"}
            return JSONResponse({"error": error | {"param": None, "code": None}}, 400)
        if path == "/chat/completions":
            return _chat(body)
        if path == "/embeddings":
            return _vectors(body["input"])
        return Response(said.content, media_type=said.headers["content-type"])


def _vectors(given: Any) -> Response:
    many = isinstance(given, list) and not isinstance(given[0], int)
    data = [
        {"object": "embedding", "index": index, "embedding": [0.5, -0.5]}
        for index in range(len(given) if many else 1)
    ]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return JSONResponse({"object": "list", "model": "strict", "data": data, "usage": usage})


def _chat(body: dict[str, Any]) -> Response:
    tools = [tool for tool in body.get("tools", []) if tool["type"] == "function"]
    message: dict[str, Any] = {"role": "assistant", "content": "fine"}
    if tools and body["messages"][-1]["role"] == "user":
        function = {"name": tools[0]["function"]["name"], "arguments": "{}"}
        call = {"id": "call_1", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    reason = "tool_calls" if "tool_calls" in message else "stop"
    head = {"id": "chatcmpl-1", "created": 1, "model": "strict"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": reason}
        whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        return JSONResponse(whole)
    for index, call in enumerate(message.get("tool_calls", [])):
        call["index"] = index
    return StreamingResponse(_events(head, message, reason), media_type="text/event-stream")


async def _events(head: dict[str, Any], delta: dict[str, Any], reason: str) -> AsyncIterator[str]:
    for part, end in ((delta, None), ({}, reason)):
        choice = {"index": 0, "delta": part, "finish_reason": end}
        chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"
