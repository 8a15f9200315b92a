"""`isthmus demo`: a tour on real input, against a server of its own or a running one."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from mcp_server.commands.demo import asking, searching, storing
from mcp_server.commands.demo.screen import Screen
from mcp_server.commands.demo.server import Target, own_server, running
from mcp_server.commands.demo.tour import Tour
from mcp_server.commands.demo.walk import Walk
from mcp_server.errors import ConfigurationError
from mcp_server.settings import Settings

STEPS: tuple[tuple[str, Callable[[Tour], Awaitable[None]]], ...] = (
    ("Connect as an MCP client", storing.connect),
    ("SQL: a table of your own, loaded and queried", storing.sql),
    ("Key-value: versions that catch a late writer", storing.kv),
    ("Objects: put, read a part, read as an MCP resource", storing.objects),
    ("Vectors: search by meaning in English and Chinese", searching.vectors),
    ("Changes: the journal of what was written", searching.changes),
    ("Agents: a model with a tool, run by a tool", asking.agent),
    ("OpenAI SDK: a chat whose model calls a tool through MCP", asking.openai_sdk),
)
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A call may wait for a model that is still loading; each call has a limit of its own.
_HTTP_SECONDS = 300.0


async def demo(settings: Settings, *, url: str | None, key: str | None) -> int:
    """Run every step; return 0 if all worked, 1 if one did not, 128 + N if signal N ended it.

    Raises:
        ConfigurationError: the URL is malformed, nothing answers there, the key is refused, or the
            demo's own server does not start.
    """
    task, ended_by = asyncio.current_task(), list[int]()
    loop = asyncio.get_running_loop()

    def end(number: int) -> None:
        ended_by.append(number)
        if task is not None:
            task.cancel()

    for number in ENDS:
        loop.add_signal_handler(number, end, number)
    try:
        code = await _demo(Screen(), settings, url, key)
        # A library may take the cancellation for its own: then the tour ends by itself.
        return 128 + ended_by[0] if ended_by else code
    except asyncio.CancelledError:
        if not ended_by:
            raise
        return 128 + ended_by[0]
    except BrokenPipeError:  # nobody reads any more: `isthmus demo | head`
        sys.stdout = None  # or the interpreter complains when it flushes at its end
        return 1
    finally:
        for number in ENDS:
            loop.remove_signal_handler(number)


async def _demo(screen: Screen, settings: Settings, url: str | None, key: str | None) -> int:
    async with AsyncExitStack() as stack:
        if url is not None:
            target = running(url, key or settings.api_key)
        else:
            async with screen.waiting("starting a server of its own"):
                target = await stack.enter_async_context(own_server(settings))
        where = "on its own server, with data in a temporary directory" if target.own else "on"
        screen.line(f"Isthmus demo {where}: {target.url}")
        walk = Walk(screen, STEPS)
        try:
            async with _open(screen, target) as tour:
                await walk.take(tour)
        except BaseExceptionGroup as group:  # the connection's own tasks raise together
            walk.break_off(group)
    if walk.problems:
        screen.line()
        screen.bad(f"Failed after {screen.seconds:.1f} s. {' '.join(walk.problems)}")
        return 1
    screen.line()
    screen.good(f"All {len(STEPS)} steps worked, in {screen.seconds:.1f} s.")
    return 0


@asynccontextmanager
async def _open(screen: Screen, target: Target) -> AsyncGenerator[Tour]:
    """Connect once; every call of the tour goes over this connection."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx2.AsyncClient(
                headers=target.headers,
                timeout=_HTTP_SECONDS,
                # A proxy that the environment names knows nothing of a server on this machine.
                trust_env=not target.own,
            )
        )
        await _check(http, target)
        transport = streamable_http_client(f"{target.url}/mcp", http_client=http)
        yield Tour(screen, target, await stack.enter_async_context(Client(transport)))


async def _check(http: httpx2.AsyncClient, target: Target) -> None:
    """Tell a wrong URL or key apart from a failing step, which the protocol's client cannot."""
    try:
        answer = await http.post(f"{target.url}/mcp", json={}, timeout=10)
    except httpx2.TransportError as error:
        raise ConfigurationError(
            f"--url {target.url}: nothing answers there ({type(error).__name__}); start `isthmus serve`"
        ) from error
    if answer.status_code in {401, 403}:
        raise ConfigurationError(
            f"{target.url} refuses the key; give one with --key or ISTHMUS_API_KEY"
        )
    if answer.status_code == 404:
        raise ConfigurationError(f"--url {target.url}: there is no MCP server at {target.url}/mcp")
