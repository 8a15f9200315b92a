"""One line of a batch, asked of the handler that serves such requests at the door: one path, one decision."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import orjson
from starlette.types import Message, Scope

from mcp_server.auth.principal import Principal, acting_as
from mcp_server.doors import DeclaredRoute
from mcp_server.operation import Operation, Operations
from mcp_server.policy import Verb
from openai_facade.errors import envelope
from openai_facade.facade import Facade
from openai_facade.identity import request_id
from openai_facade.routes import chat_completions, completions, embeddings, moderations, responses
from openai_facade.wire.batches import ENDPOINTS
from openai_facade.wire.faults import unsupported

_MODULES = (chat_completions, completions, embeddings, moderations, responses)


_BUSY = frozenset({429, 503})


class Answered(NamedTuple):
    """How a line was answered: `body` is JSON text in one line.

    `retry_after` is for how many seconds at least whoever may ask again should wait, None if asking
    again does not help or may repeat what a tool did.
    """

    status: int
    request_id: str
    body: str
    retry_after: float | None = None


class Unmetered:
    """Operations that count as no request at a door: a batch has a budget of time, and no rate."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def meter(self, principal: Principal) -> None:
        """Count nothing."""
        del principal

    def __call__(
        self, principal: Principal, verb: Verb, uri: str, *, metered: bool = False, **named: Any
    ) -> AbstractAsyncContextManager[Operation]:
        """Open an operation, see `Operations`."""
        del metered
        return self._operations(principal, verb, uri, **named)


def handlers(facade: Facade) -> dict[str, DeclaredRoute]:
    """Return by path what answers lines."""
    return {
        route.path: route
        for module in _MODULES
        for route in module.routes(facade)
        if route.path in ENDPOINTS and "POST" in (route.methods or ())
    }


async def ask(route: DeclaredRoute, principal: Principal, body: dict[str, Any]) -> Answered:
    """Ask as `principal`; whatever goes wrong is an answer too."""
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": route.path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "path_params": {},
    }
    name = request_id(scope)
    for field in ("stream", "background"):
        if body.get(field):
            refusal = unsupported(field, "a line of a batch is answered whole; leave it out.")
            return Answered(refusal.status, name, _text(envelope(refusal)))
    client = _Client(orjson.dumps(body))
    with acting_as(principal):
        await route.app(scope, client.receive, client.send)
    return client.answered(name)


class _Client:
    """Sends one request and keeps what comes back; it never leaves."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []

    async def receive(self) -> Message:
        if self._body is None:
            await asyncio.get_running_loop().create_future()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = dict(message["headers"])
        else:
            self._pieces.append(message.get("body", b""))

    def answered(self, name: str) -> Answered:
        try:
            body = _text(orjson.loads(b"".join(self._pieces)))
        except orjson.JSONDecodeError:
            error = {"message": "The answer is no JSON.", "type": "server_error"}
            body = {"error": error | {"param": None, "code": "invalid_answer"}}
            return Answered(502, name, _text(body))
        return Answered(self._status, name, body, self._retry_after())

    def _retry_after(self) -> float | None:
        if self._status not in _BUSY or self._headers.get(b"x-should-retry") == b"false":
            return None
        return float(self._headers.get(b"retry-after-ms", 0)) / 1000


def _text(value: object) -> str:
    return orjson.dumps(value).decode()
