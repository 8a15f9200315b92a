"""One HTTP exchange over raw ASGI: read a JSON body, answer it whole or event by event, notice a client that left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
from anyio import CancelScope
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from mcp_server.errors import AppError
from mcp_server.leaving import told_of_leaving
from openai_facade.errors import Header, defect, envelope, headers_of, status_of
from openai_facade.identity import request_id, response_headers
from openai_facade.translate.response_stream import error_event
from openai_facade.wire.faults import InvalidRequest, json_type

_JSON: Header = (b"content-type", b"application/json")
_STREAM: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]
_OK = 200
_PING = b": ping\n\n"
_DONE = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """The client left before its request was complete: nobody is there to answer."""


class Exchange:
    """A request and its answer; after `open_stream` the answer is a stream of events."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, ping_seconds: float) -> None:
        self.scope = scope
        self.id = request_id(scope)
        # Whether it was counted against the caller's rate.
        self.counted = False
        # What keeps a successful answer before it is told; then a client that leaves ends nothing.
        self.keeping: Callable[[bytes], Awaitable[None]] | None = None
        self._body: bytes | None = None
        self._extra_headers: list[Header] = []
        self._receive = receive
        self._send = send
        self._ping_seconds = ping_seconds
        self._streaming = False
        self._ended = False
        self._written_at = 0.0
        # Of a stream of typed events: the number of its next one.
        self._next_number: int | None = None

    async def read_object(self) -> dict[str, Any]:
        """Read the body as a JSON object; its size is bounded by the gate in front of every route.

        Raises:
            InvalidRequest: not declared as JSON, not JSON, or not an object.
            ClientGone: the client left in the middle of it.
        """
        self._check_content_type()
        raw = await self._read()
        try:
            body: object = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(
                f"We could not parse the JSON body of your request: {error}. Send a JSON object.",
                param=None,
                wire_code="invalid_json",
            ) from error
        if not isinstance(body, dict):
            raise InvalidRequest(
                f"Invalid body: expected an object, but got {json_type(body)} instead.",
                param=None,
                wire_code="invalid_type",
            )
        return cast("dict[str, Any]", body)

    def _check_content_type(self) -> None:
        for name, value in self.scope["headers"]:
            if name != b"content-type":
                continue
            media = value.partition(b";")[0].strip().lower()
            if media != b"application/json" and not media.endswith(b"+json"):
                raise InvalidRequest(
                    f"Unsupported Content-Type {media.decode('latin-1')!r}: send the body as "
                    "'Content-Type: application/json'.",
                    param=None,
                    wire_code="unsupported_content_type",
                )

    @property
    def content_type(self) -> str:
        """What the request says that its body is."""
        found = [value for name, value in self.scope["headers"] if name == b"content-type"]
        return found[0].decode("latin-1") if found else ""

    async def read_bytes(self) -> bytes:
        """Read the body as it is, within the same bound as `read_object`.

        Raises:
            ClientGone: the client left in the middle of it.
        """
        return await self._read()

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers; names in any case."""
        return Headers(scope=self.scope)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body as it comes.

        Raises:
            ClientGone: the client left in the middle of it.
        """
        while (message := await self._receive())["type"] == "http.request":
            yield message.get("body", b"")
            if not message.get("more_body"):
                return
        raise ClientGone

    async def _read(self) -> bytes:
        if self._body is not None:
            return self._body
        pieces: list[bytes] = []
        while (message := await self._receive())["type"] == "http.request":
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                self._body = b"".join(pieces)
                return self._body
        raise ClientGone

    def forbid_retry(self) -> None:
        """Tell the SDKs, which repeat a failed request on their own, that this one had effects."""
        self._extra_headers.append((b"x-should-retry", b"false"))

    @asynccontextmanager
    async def while_connected(self) -> AsyncGenerator[None]:
        """Run the body, and cancel it when the client goes away: then this ends without an error.

        The request's body must have been read: what comes after it can only be the disconnect.
        """
        if self.keeping is not None:
            yield
            return
        with (
            CancelScope() as scope,
            told_of_leaving(self.scope, self._receive, scope.cancel),
        ):
            yield

    async def answer(self, payload: bytes, status: int = 200) -> None:
        """Send a whole JSON answer."""
        if self.keeping is not None and status == _OK:
            await self.keeping(payload)
        self._ended = True
        headers = [
            _JSON,
            (b"content-length", b"%d" % len(payload)),
            *response_headers(self.scope),
            *self._extra_headers,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": payload})

    async def pass_on(self, content_type: str, pieces: AsyncIterator[bytes]) -> None:
        """Answer with bytes as they come; status 200 waits for the first of them.

        An answer of events that breaks off ends with an error event; any other is cut, so that its
        client sees that it is not whole.
        """
        piece = await anext(pieces, b"")
        kind = (b"content-type", content_type.encode("latin-1", "replace"))
        headers = [kind, *response_headers(self.scope), *self._extra_headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._streaming = content_type.startswith("text/event-stream")
        self._ended = not self._streaming
        while piece:
            await self._write(piece)
            piece = await anext(pieces, b"")
        self._ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send_bytes(
        self, status: int, headers: Sequence[Header], pieces: AsyncIterator[bytes]
    ) -> None:
        """Answer with bytes of a length that `headers` tell; one that breaks off is cut."""
        piece = await anext(pieces, b"")
        sent = [*headers, *response_headers(self.scope)]
        await self._send({"type": "http.response.start", "status": status, "headers": sent})
        self._ended = True
        while piece:
            await self._write(piece)
            piece = await anext(pieces, b"")
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    @asynccontextmanager
    async def open_stream(self) -> AsyncGenerator[None]:
        """Send status 200 and keep the line alive with a comment whenever it was silent for long."""
        headers = [*_STREAM, *response_headers(self.scope), *self._extra_headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._streaming = True
        self._written_at = time.monotonic()
        pinger = asyncio.create_task(self._ping())
        try:
            yield
        finally:
            pinger.cancel()

    def event(self, payload: bytes) -> Awaitable[None]:
        """Send one event in one write: some parsers lose an event that comes in two pieces."""
        return self._write(b"data: " + payload + b"\n\n")

    async def typed_event(self, event: Mapping[str, Any]) -> None:
        """Send one numbered event under its type, as the streams of responses have them, in one write."""
        self._next_number = event["sequence_number"] + 1
        await self._write(_typed(event))

    async def end(self) -> None:
        """End a stream whose last event says so itself."""
        self._ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def events(self, payloads: Iterable[bytes]) -> Awaitable[None]:
        """Send several events in one write, each of them whole."""
        return self._write(b"data: " + b"\n\ndata: ".join(payloads) + b"\n\n")

    async def done(self) -> None:
        """End the stream as OpenAI does."""
        self._ended = True
        await self._send({"type": "http.response.body", "body": _DONE, "more_body": False})

    async def fail(self, error: AppError) -> None:
        """Answer with `error`: as an HTTP error, or as the last event if the stream has begun."""
        await self._fail(envelope(error), status_of(error), headers_of(error))

    async def fail_unforeseen(self) -> None:
        """Answer for a defect; it must be logged where it was caught."""
        await self._fail(defect(), 500, [])

    async def _fail(self, body: dict[str, Any], status: int, headers: list[Header]) -> None:
        if self._ended:
            return
        payload = orjson.dumps(body)
        if self._streaming:
            self._ended = True
            last = b"data: " + payload + b"\n\n"
            if self._next_number is not None:
                last = _typed(error_event(body["error"], self._next_number))
            await self._send({"type": "http.response.body", "body": last, "more_body": False})
            return
        self._extra_headers.extend(headers)
        await self.answer(payload, status)

    def _write(self, data: bytes) -> Awaitable[None]:
        self._written_at = time.monotonic()
        return self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _ping(self) -> None:
        while True:
            silent = time.monotonic() - self._written_at
            if silent >= self._ping_seconds:
                await self._write(_PING)
                silent = 0.0
            await asyncio.sleep(self._ping_seconds - silent)


def _typed(event: Mapping[str, Any]) -> bytes:
    return b"event: " + event["type"].encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"
