"""Responses over a WebSocket: each `response.create` of a connection is answered by the events of one response."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import aclosing
from typing import Any, cast

import orjson
from anyio import CancelScope, move_on_after
from starlette.types import Receive, Scope, Send

from mcp_server.auth.principal import Principal, current_principal
from mcp_server.doors import cut_by
from mcp_server.errors import AppError, LimitExceeded, Unauthenticated, Unavailable
from mcp_server.services.responses import StoredResponse, model_uri
from openai_facade.errors import defect, envelope, render, status_of
from openai_facade.facade import Facade
from openai_facade.identity import response_headers
from openai_facade.responses.beginning import begin
from openai_facade.responses.engine import Answering
from openai_facade.responses.memory import remembering
from openai_facade.translate.response_stream import error_event
from openai_facade.wire.faults import InvalidRequest, json_type, unsupported
from openai_facade.wire.responses import check_response

MOST_SOCKETS = 32
"""How many connections one key may have open in a process."""
MOST_WAITING = 8
_LAST_WORD_SECONDS = 1.0
# https://www.iana.org/assignments/websocket
_POLICY, _GOING_AWAY = 1008, 1001

_log = logging.getLogger("isthmus.openai")


class ResponseSocket:
    """An ASGI application for WebSockets."""

    def __init__(self, facade: Facade) -> None:
        self._facade = facade
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        principal = current_principal()
        caller = principal.key_id or f"{principal.tenant}/{principal.subject}"
        if self._open[caller] >= MOST_SOCKETS:
            refusal = LimitExceeded(f"{MOST_SOCKETS} connections are open; close one of them")
            await render(refusal, scope)(scope, receive, send)
            return
        self._open[caller] += 1
        try:
            await _Connection(self._facade, principal, scope, receive, send).serve()
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


class _Connection:
    """One connection; its requests are answered one after the other."""

    def __init__(
        self, facade: Facade, principal: Principal, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._facade = facade
        self._principal = principal
        self._scope = scope
        self._receive = receive
        self._send = send
        self._waiting: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)
        self._gone = False
        # The last response, if it is stored nowhere: the next request may go on from it.
        self._recent: StoredResponse | None = None

    async def serve(self) -> None:
        await self._receive()  # that there is a connection
        headers = response_headers(self._scope)
        await self._send({"type": "websocket.accept", "headers": headers})
        with CancelScope() as scope:
            reader = asyncio.create_task(self._read(scope))
            try:
                while True:
                    await self._answer(await self._waiting.get())
            except asyncio.CancelledError:
                # Whoever cuts us (a revoked key, a stopping server) leaves the last word to us.
                if not self._gone:
                    with move_on_after(_LAST_WORD_SECONDS, shield=True):
                        await self._close(cut_by(self._scope) or _CUT)
                raise
            finally:
                reader.cancel()

    async def _read(self, scope: CancelScope) -> None:
        """Take messages in, also while one is answered: so a client that leaves is noticed at once."""
        while (message := await self._receive())["type"] == "websocket.receive":
            text: str | None = message.get("text")
            if text is None:
                await self._fail(_invalid("Send text messages: they are JSON.", None))
            elif self._waiting.full():
                await self._fail(LimitExceeded(f"{MOST_WAITING} requests wait; send it later"))
            else:
                self._waiting.put_nowait(text)
        self._gone = True
        scope.cancel()

    async def _answer(self, text: str) -> None:
        counted = False
        try:
            body = _read_event(text)
            model = check_response(body)
            counted = True
            asking = self._facade.operations(
                self._principal, "run", model_uri(model), metered=True, changes=False
            )
            async with asking:
                await self._respond(body)
        except AppError as error:
            await self._fail(error if counted else await self._metered(error))
        except Exception:  # noqa: BLE001 - the door: logged here, told without its inside
            _log.exception("a message of a socket failed")
            await self._tell(error_event(defect()["error"], 0) | {"status": 500})

    async def _respond(self, body: dict[str, Any]) -> None:
        recent, self._recent = self._recent, None
        async with remembering(self._facade, self._principal, body) as memory:
            answering = await begin(
                self._facade, self._principal, body, memory=memory, recent=recent
            )
            async with aclosing(answering.events()) as events:
                async for event in events:
                    await self._tell(event)
        if body.get("store") is False and answering.failure is None:
            self._recent = _kept(body, answering)

    async def _metered(self, error: AppError) -> AppError:
        """Give what to answer: a message that fails before it is understood uses up the rate too."""
        try:
            await self._facade.operations.meter(self._principal)
        except AppError as refusal:
            return refusal
        return error

    async def _fail(self, error: AppError) -> None:
        await self._tell(error_event(envelope(error)["error"], 0) | {"status": status_of(error)})

    async def _close(self, error: AppError) -> None:
        await self._fail(error)
        code = _POLICY if isinstance(error, Unauthenticated) else _GOING_AWAY
        await self._send({"type": "websocket.close", "code": code, "reason": error.code})

    async def _tell(self, event: dict[str, Any]) -> None:
        await self._send({"type": "websocket.send", "text": orjson.dumps(event).decode()})


def _read_event(text: str) -> dict[str, Any]:
    """Give the body of the response that a message asks for."""
    try:
        event: object = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"We could not parse the message: {error}.", "invalid_json") from error
    if not isinstance(event, dict):
        raise _invalid(f"Expected an object, but got {json_type(event)} instead.", "invalid_type")
    body = cast("dict[str, Any]", event)
    kind = body.pop("type", None)
    if kind != "response.create":
        raise unsupported("type", f"{str(kind)[:80]!r}. Supported values are: 'response.create'.")
    body.pop("stream", None)  # it is one anyway
    if body.get("background"):
        raise unsupported("background", "ask for it with POST /v1/responses.")
    if body.get("generate") is False:
        raise unsupported("generate", "there is nothing to warm up; leave it out.")
    return body


def _kept(body: dict[str, Any], answering: Answering) -> StoredResponse:
    return StoredResponse(
        id=answering.response["id"],
        model=body["model"],
        input=answering.read,
        response=answering.response,
        hidden=answering.hidden,
    )


def _invalid(message: str, code: str | None) -> InvalidRequest:
    return InvalidRequest(message, param=None, wire_code=code)


_CUT = Unavailable("the server is stopping; connect again")
