"""uvicorn's HTTP protocol with a bound on what a client may send before its request is known, and fewer writes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mcp_server.leaving import Leaving, offer
from mcp_server.transports.joined_head import JoinedHead

# The request line and the headers; nginx allows 32 KiB.
MOST_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: 32\r\n\r\n"
    b"The request's head is too large."
)


class BoundedHeadProtocol(HttpToolsProtocol):
    """Ends connections that send without end what no route ever sees, or that send nothing.

    The parser keeps every header and trailer it is sent: without a bound anybody who reaches the port
    can fill the memory, at some twenty bytes for each one sent, and no key has been asked for yet.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hidden_bytes = 0
        self._moved = False
        self._in_head = False
        self._upgraded = False
        self._timer: asyncio.TimerHandle | None = None
        # In the order of their requests, which is that of the answers.
        self._unanswered: deque[RequestResponseCycle] = deque()

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  as uvicorn's own
        super().connection_made(transport)
        self._leaving = Leaving(self.flow.resume_reading)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        for cycle in self._unanswered:  # uvicorn tells the last one only
            cycle.disconnected = True
            cycle.message_event.set()
            # Nobody waits for its head; it and this connection hold each other no more.
            cycle.transport = self.transport
            cycle.on_response = _nothing
        self._unanswered.clear()
        self._leaving.leave()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._moved = self._in_head = True
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers would be added to what the door has checked
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._moved, self._in_head = True, False
        self._stop_waiting()
        offer(self._leaving, self.scope)
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:  # it is no upgrade
            self._unanswered.append(self.cycle)
            _join_head(self.cycle, self.transport, self.loop)

    def on_response_complete(self) -> None:
        if self._unanswered:
            answered = self._unanswered.popleft().transport
            if isinstance(answered, JoinedHead):  # a head alone
                answered.flush()
        super().on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        self._upgraded = True  # another protocol has the connection now

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._moved = True
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._moved = False
        super().data_received(data)
        if self._upgraded or self.transport.is_closing():
            return
        # Where in the data a head or trailers began is not known: before them may stand the end of a
        # body. So the bound is kept to within one read of the socket.
        self._hidden_bytes = 0 if self._moved else self._hidden_bytes + len(data)
        if self._hidden_bytes > MOST_HEAD_BYTES:
            self._refuse()
        elif self._timer is None and self._has_answered():
            # The rest of a body that nobody reads, or blank lines: uvicorn has stopped its own clock.
            self._expect_head()

    def _has_answered(self) -> bool:
        return (
            not self.cycle or self.cycle.response_complete
        )  # there is none before the first request

    def _refuse(self) -> None:
        self._stop_waiting()
        if self._has_answered():
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _expect_head(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()


def _nothing() -> None:
    """Do nothing: there will be no answer."""


def _join_head(
    cycle: RequestResponseCycle, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
) -> None:
    def sent() -> None:
        cycle.transport = transport

    cycle.transport = cast("asyncio.Transport", JoinedHead(transport, loop, sent))
