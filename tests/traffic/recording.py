"""Records what goes by under /v1: in this process, or in one that a test starts, as a line of a file each."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from mcp_server.doors import DeclaredRoute

# The folder for the exchanges of servers in other processes; `python -m tests.traffic.isthmus` reads it.
FOLDER = "TEST_TRAFFIC_FOLDER"
_BODIES = ("request", "answer")
serve = DeclaredRoute.handle
Serve = Callable[[DeclaredRoute, Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class Exchange:
    """A request under /v1 and its whole answer, as they were on the wire.

    Of a body that is neither JSON nor a stream of events nothing is kept: there is nothing to compare.
    """

    method: str
    path: str
    request_type: str
    request: bytes
    status: int
    answer_type: str
    answer: bytes
    query: str = ""


Keep = Callable[[Exchange], None]


class Recorder:
    """Serves routes as ever, and gives `keep` what went by when the answer is whole: not if it is cut."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep

    def method(self) -> Serve:
        """Return what stands for `DeclaredRoute.handle`."""

        async def handle(route: DeclaredRoute, scope: Scope, receive: Receive, send: Send) -> None:
            await self._handle(route, scope, receive, send)

        return handle

    async def _handle(
        self, route: DeclaredRoute, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if route.door != "openai" or scope["type"] != "http":
            await serve(route, scope, receive, send)
            return
        request: list[bytes] = []
        answer: list[bytes] = []
        head: Message = {}
        asked = media_type(scope["headers"])

        async def receiving() -> Message:
            message = await receive()
            if "json" in asked:
                request.append(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
            elif message["type"] == "http.response.body":
                if _compared(head):
                    answer.append(message.get("body", b""))
                # Before its client has the end of it: who has an answer finds it recorded.
                if not message.get("more_body", False) and scope["method"] != "HEAD":
                    self._keep(_exchange(scope, asked, request, head, answer))
            await send(message)

        await serve(route, scope, receiving, sending)


def into(folder: Path) -> Keep:
    """Return what writes exchanges to a file of this process: each is there whole before the next begins."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / f"{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def keep(exchange: Exchange) -> None:
        fields = asdict(exchange)
        for name in _BODIES:
            fields[name] = base64.b64encode(fields[name]).decode()
        os.write(file, json.dumps(fields).encode() + b"\n")

    return keep


def taken_from(folder: Path, read: dict[str, int]) -> Iterator[Exchange]:
    """Yield the exchanges that came since `read`, which says how far each file was read and is moved on.

    A line without its end is left for the next time: whoever writes it is at it, or was killed.
    """
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            file.seek(read.get(path.name, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break
                read[path.name] = read.get(path.name, 0) + len(line)
                fields = json.loads(line)
                yield Exchange(
                    **fields | {name: base64.b64decode(fields[name]) for name in _BODIES}
                )


def media_type(headers: Any) -> str:
    return next(
        (value.decode("latin-1") for name, value in headers if name.lower() == b"content-type"), ""
    )


def _compared(head: Message) -> bool:
    kind = media_type(head["headers"])
    return head["status"] >= 400 or "json" in kind or "event-stream" in kind


def _exchange(
    scope: Scope, asked: str, request: list[bytes], head: Message, answer: list[bytes]
) -> Exchange:
    return Exchange(
        *(scope["method"], scope["path"], asked, b"".join(request)),
        *(head["status"], media_type(head["headers"]), b"".join(answer)),
        scope["query_string"].decode("latin-1"),
    )
