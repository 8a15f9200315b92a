"""Checks every exchange under /v1 that any test has with a server in its own process, and says how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from mcp_server.doors import DeclaredRoute
from tests.traffic.check import Exchange, check

COUNTS = "openai_traffic"
counted = pytest.StashKey[Counter[str]]()
serve = DeclaredRoute.handle


class Recorder:
    """Serves a route as ever, and keeps what went by when the answer is whole."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    async def handle(
        self, route: DeclaredRoute, scope: Scope, receive: Receive, send: Send
    ) -> None:
        request: list[bytes] = []
        answer: list[bytes] = []
        head: Message = {}
        whole = False

        async def receiving() -> Message:
            message = await receive()
            request.append(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            nonlocal whole
            if message["type"] == "http.response.start":
                head.update(message)
            elif message["type"] == "http.response.body":
                answer.append(message.get("body", b""))
                whole = not message.get("more_body", False)
            await send(message)

        await serve(route, scope, receiving, sending)
        if whole and scope["method"] != "HEAD":  # a client that left was told no more
            self.exchanges.append(
                Exchange(
                    scope["method"],
                    scope["path"],
                    media_type(scope["headers"]),
                    b"".join(request),
                    head["status"],
                    media_type(head["headers"]),
                    b"".join(answer),
                    scope["query_string"].decode("latin-1"),
                )
            )


def media_type(headers: Any) -> str:
    return next(
        (value.decode("latin-1") for name, value in headers if name.lower() == b"content-type"), ""
    )


@pytest.fixture(autouse=True)
def _checked_traffic(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> Iterator[None]:
    recorder = Recorder()

    async def handle(route: DeclaredRoute, scope: Scope, receive: Receive, send: Send) -> None:
        if route.door == "openai" and scope["type"] == "http":
            await recorder.handle(route, scope, receive, send)
        else:
            await serve(route, scope, receive, send)

    monkeypatch.setattr(DeclaredRoute, "handle", handle)
    yield
    counts = pytestconfig.stash.setdefault(counted, Counter())
    faults: list[str] = []
    for exchange in recorder.exchanges:
        finding = check(exchange)
        counts["exchanges" if exchange.status < 400 else "errors"] += 1
        counts["events"] += finding.events
        counts.update(f"removed: {name}" for name in finding.removed)
        faults += [f"{exchange.method} {exchange.path}: {fault}" for fault in finding.faults]
    assert faults == [], "what was said under /v1 does not fit OpenAI's document"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a process of pytest-xdist counted to the one that reports."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[COUNTS] = dict(session.config.stash.get(counted, Counter[str]()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    del error
    counts = node.config.stash.setdefault(counted, Counter())
    counts.update(getattr(node, "workeroutput", {}).get(COUNTS, {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how much was checked."""
    counts = config.stash.get(counted, Counter[str]())
    if counts:
        told = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
        terminalreporter.write_line(f"OpenAI traffic checked: {told}")
