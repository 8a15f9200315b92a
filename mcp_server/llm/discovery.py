"""Look on loopback for a language-model server that is already running."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import anyio

PROBE_SECONDS = 0.3
_HOST = "127.0.0.1"
_MOST_BYTES = 1_000_000
_OK = re.compile(rb"HTTP/1\.[01] 200 ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})(?:\r\n|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kind of server and the port it listens on by default."""

    kind: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}/v1"


CANDIDATES = (
    Candidate("Ollama", 11434),
    Candidate("LM Studio", 1234),
    Candidate("vLLM", 8000),
    Candidate("llama-server", 8080),
)


async def discover(
    own_ports: frozenset[int], candidates: Iterable[Candidate] | None = None
) -> list[Candidate]:
    """Ask all candidates at once, 0.3 s at most, and give those that list at least one model.

    A port may belong to any program, so only a well-formed OpenAI model list counts; `own_ports` and
    other servers of this kind are left out.
    """
    asked = [
        each
        for each in (CANDIDATES if candidates is None else candidates)
        if each.port not in own_ports
    ]
    answered: set[Candidate] = set()

    async def ask(candidate: Candidate) -> None:
        with anyio.move_on_after(PROBE_SECONDS):
            if _lists_models(await _get_models(candidate.port)):
                answered.add(candidate)

    async with anyio.create_task_group() as tasks:
        for candidate in asked:
            tasks.start_soon(ask, candidate)
    return [each for each in asked if each in answered]


async def _get_models(port: int) -> bytes:
    """GET /v1/models over a bare socket: an HTTP client costs 0.1 s of imports on every start."""
    # HTTP/1.0, so that the answer is never chunked.
    head = f"GET /v1/models HTTP/1.0\r\nHost: {_HOST}:{port}\r\nConnection: close\r\n\r\n"
    answer = b""
    try:
        async with await anyio.connect_tcp(_HOST, port) as stream:
            await stream.send(head.encode())
            while not _is_whole(answer) and len(answer) < _MOST_BYTES:
                answer += await stream.receive()
    except anyio.EndOfStream:
        pass
    except (OSError, anyio.BrokenResourceError):
        return b""
    status, _, body = answer.partition(b"\r\n\r\n")
    return body if _OK.match(status) else b""


def _is_whole(answer: bytes) -> bool:
    """Tell whether all that Content-Length announces is there: not every server hangs up."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return length is not None and len(body) >= int(length[1])


def _lists_models(body: bytes) -> bool:
    try:
        answer: object = json.loads(body)
    except ValueError:
        return False
    if not isinstance(answer, dict):
        return False
    models = cast("dict[str, object]", answer).get("data")
    if not isinstance(models, list) or not models:
        return False
    return all(_is_model(model) for model in cast("list[object]", models))


def _is_model(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    model = cast("dict[str, Any]", value)
    return isinstance(model.get("id"), str) and model.get("owned_by") != "isthmus"
