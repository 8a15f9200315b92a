"""Opens what sends spans to an OpenTelemetry collector, by OTLP over HTTP, and closes it in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import anyio

from mcp_server.errors import ConfigurationError
from mcp_server.settings_tracing import Tracing
from mcp_server.tracing.spans import Spans

# What was not sent when the server stops is worth no longer wait.
CLOSE_SECONDS = 3.0


@asynccontextmanager
async def open_spans(tracing: Tracing | None) -> AsyncGenerator[Spans | None]:
    """Yield what sends spans, None if none are to be sent; on the way out what waits is sent.

    Raises:
        ConfigurationError: the packages for it are missing.
    """
    if tracing is None:
        yield None
        return
    try:
        from mcp_server.tracing.sdk import SdkSpans
    except ImportError as error:
        raise ConfigurationError(
            f"{tracing.variable}: the packages that send spans are missing; install isthmus[otel], "
            "or unset it"
        ) from error
    spans = SdkSpans(tracing.delay_millis)
    try:
        yield spans
    finally:
        await _close(spans.close)


async def _close(close: Callable[[], None]) -> None:
    loop, closed = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        try:
            close()
        finally:
            with suppress(RuntimeError):  # the loop did not wait for us
                loop.call_soon_threadsafe(closed.set)

    # The SDK waits half a minute for a collector that is away; no pool of threads shall wait for it.
    threading.Thread(target=work, name="spans close", daemon=True).start()
    with anyio.move_on_after(CLOSE_SECONDS, shield=True):
        await closed.wait()
