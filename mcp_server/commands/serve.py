"""`isthmus serve`: the HTTP server."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

import uvicorn
from sse_starlette.sse import AppStatus

from mcp_server.auth.keys import KeyService
from mcp_server.errors import ConfigurationError
from mcp_server.http_app import HttpApp
from mcp_server.llm.router import Router
from mcp_server.loopback import is_loopback
from mcp_server.settings import Settings
from mcp_server.sockets import socket_options
from mcp_server.telemetry import configure_logging
from mcp_server.transports.bounded_head import BoundedHeadProtocol

Role = Literal["all", "mcp", "openai"]

logger = logging.getLogger(__name__)

# How long a stop waits for requests in progress; streams without an end are closed at once.
GRACE_SECONDS = 3
# Then they are ended, each with an answer. What still runs after this time is cut off.
LAST_SECONDS = 4
BACKLOG = 2048
# How many more objects than before make the collector look through the young ones; Python says 700.
YOUNG_OBJECTS = 10_000


async def serve(settings: Settings, role: Role) -> int:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the address cannot be had, or nothing would guard it.
    """
    configure_logging(settings.log_level, settings.log_format)
    local = is_loopback(settings.host)
    if not local and settings.auth == "off":
        raise ConfigurationError(
            f"ISTHMUS_AUTH=off with --host {settings.host}: anybody on the network would own the data; "
            "listen on 127.0.0.1 or turn authentication on"
        )
    with _listen(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        settings = settings.model_copy(update={"port": port})
        opening = (
            _open_facade(settings, local) if role == "openai" else _open(settings, role, local)
        )
        async with opening as (http, router):
            # Loads the embedded model behind the first requests, so that the first chat need not wait.
            router.warm()
            server = _Server(http, _url(settings.host, port), settings.max_body_bytes)
            await server.serve(sockets=[listener])
    return 0


@asynccontextmanager
async def _open(
    settings: Settings, role: Literal["all", "mcp"], local: bool
) -> AsyncGenerator[tuple[HttpApp, Router]]:
    from mcp_server.app import open_http
    from mcp_server.runtime import open_runtime

    # CONTRACT: `all` contains a worker; with --role mcp, `isthmus worker` runs what is queued.
    async with open_runtime(settings, concurrency=None if role == "all" else 0) as runtime:
        await _ensure_key(settings, runtime.services.keys, local=local)
        async with open_http(runtime, role) as http:
            yield http, runtime.engines.router


@asynccontextmanager
async def _open_facade(settings: Settings, local: bool) -> AsyncGenerator[tuple[HttpApp, Router]]:
    # Each role imports what it serves: this one not even the engines of data.
    from mcp_server.facade_app import open_facade_http
    from mcp_server.facade_runtime import open_facade_runtime

    async with open_facade_runtime(settings) as runtime:
        await _ensure_key(settings, runtime.services.keys, local=local)
        async with open_facade_http(runtime) as http:
            yield http, runtime.engines.router


class _Server(uvicorn.Server):
    """Says when it is ready, and ends streams that have no end of their own before it waits for the rest."""

    def __init__(self, http: HttpApp, url: str, most_message_bytes: int) -> None:
        super().__init__(
            uvicorn.Config(
                http.app,
                http=BoundedHeadProtocol,
                loop="none",
                **socket_options(most_message_bytes),
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                # Else a request may begin with what an earlier one of its connection left: asyncio hands
                # a task's context on to the reading that the task resumed.
                reset_contextvars=True,
                timeout_graceful_shutdown=LAST_SECONDS,
            )
        )
        self._http = http
        self._url = url
        # It would end the answers of calls in progress as well, at once and in the middle.
        AppStatus.disable_automatic_graceful_drain()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Stop on SIGTERM and SIGINT and end well: uvicorn would raise the signal again afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        _spare_collector()
        print(f"Isthmus is ready at {self._url}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._http.close_streams()
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._http.close_requests)
        await super().shutdown(sockets=sockets)


def _spare_collector() -> None:
    """Let the collector of cycles pass over what lives as long as the server: modules, routes, engines.

    It would walk through all of it again and again, in the middle of requests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


async def _ensure_key(settings: Settings, keys: KeyService, *, local: bool) -> None:
    if settings.auth == "off" or settings.api_key is not None:
        return
    if local:
        await _print_first_key(keys)
    elif not await keys.any_exists():
        raise ConfigurationError(
            f"--host {settings.host} with no key: set ISTHMUS_API_KEY or run `isthmus keys create NAME` first"
        )


async def _print_first_key(keys: KeyService) -> None:
    new = await keys.create_first()
    if new is not None:
        print(f"API key: {new['key']}", flush=True)
        logger.info("this admin key is shown once; `isthmus keys create NAME` makes others")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"ISTHMUS_HOST={host} ISTHMUS_PORT={port}: cannot listen there ({reason}); "
            "stop what holds it, or choose another with --port (0 finds a free one)"
        ) from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
