"""The door of each route: runs its handler as a raw ASGI application and turns every failure into an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from anyio import move_on_after
from starlette.types import Receive, Scope, Send

from mcp_server.doors import DeclaredRoute, cut_by
from mcp_server.errors import AppError, Unavailable
from mcp_server.policy import Verb
from openai_facade.exchange import ClientGone, Exchange
from openai_facade.facade import Facade

Handler = Callable[[Exchange], Awaitable[None]]

_LAST_WORD_SECONDS = 1.0

_log = logging.getLogger("isthmus.openai")


class Endpoint:
    """An ASGI application; Starlette's Request and Response would cost as much as all our own work."""

    def __init__(self, handler: Handler, facade: Facade) -> None:
        self._handler = handler
        self._facade = facade

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = Exchange(scope, receive, send, ping_seconds=self._facade.ping_seconds)
        try:
            await self._handler(exchange)
        except AppError as error:
            await exchange.fail(await self._counted(exchange, error))
        except ClientGone:
            return
        except asyncio.CancelledError:
            # Whoever cuts us (a revoked key, a stopping server) leaves it to us to end the answer.
            with move_on_after(_LAST_WORD_SECONDS, shield=True):
                await exchange.fail(cut_by(scope) or _CUT)
            raise
        except Exception:  # noqa: BLE001 - the door: logged here, told without its inside
            _log.exception("%s failed", exchange.id)
            await exchange.fail_unforeseen()

    async def _counted(self, exchange: Exchange, error: AppError) -> AppError:
        """Return what to answer: requests that fail before they are understood use up the rate too."""
        try:
            await self._facade.count(exchange)
        except AppError as refusal:
            return refusal
        return error


_CUT = Unavailable("the server is stopping; try again")


def declare(
    facade: Facade,
    path: str,
    handler: Handler,
    *,
    methods: Sequence[str],
    verb: Verb,
    uploads: bool = False,
) -> DeclaredRoute:
    """Make a route under /v1 that needs a key; `uploads` are stored as they come."""
    return DeclaredRoute(
        path,
        Endpoint(handler, facade),
        methods=methods,
        verb=verb,
        door="openai",
        uploads=uploads,
    )
