"""`Idempotency-Key`: a request that makes something, sent again, is not made again but answered as the first time."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, cast

import orjson

from mcp_server.auth.principal import current_principal
from mcp_server.services.idempotency import KeyReused
from openai_facade.endpoint import Handler
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.wire.faults import InvalidRequest

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def idempotent(facade: Facade, handler: Handler, *, only_stored: bool = False) -> Handler:
    """Let a handler honour the header; without one it costs a look at the headers.

    `only_stored` is for responses: those with `store` false, and streams, are answers of a model,
    which nothing keeps beside what the caller asked to keep.
    """

    async def once(exchange: Exchange) -> None:
        key = exchange.headers.get("idempotency-key")
        if key is None or (only_stored and not await _is_stored(exchange)):
            await handler(exchange)
            return
        if not _KEY.fullmatch(key):
            raise InvalidRequest(
                "Invalid Idempotency-Key: send 1 to 255 visible ASCII characters.",
                param=None,
                wire_code="invalid_value",
            )
        service = facade.services.idempotency
        print_ = _fingerprint(exchange, await exchange.read_bytes())
        with _in_the_words_of_the_wire():
            async with service.once(current_principal(), key, print_) as found:
                if isinstance(found, str):
                    await facade.count(exchange)
                    await exchange.answer(found.encode())
                    return
                exchange.keeping = found.keep
                await handler(exchange)

    return once


@contextmanager
def _in_the_words_of_the_wire() -> Generator[None]:
    try:
        yield
    except KeyReused as error:
        raise InvalidRequest(
            error.message, param=None, wire_code="idempotency_key_reused", status=error.status
        ) from error


async def _is_stored(exchange: Exchange) -> bool:
    try:
        body: Any = orjson.loads(await exchange.read_bytes())
    except orjson.JSONDecodeError:
        return False  # refused by the handler, in its words
    if not isinstance(body, dict):
        return False
    asked = cast("dict[str, Any]", body)
    return asked.get("store") is not False and not asked.get("stream")


def _fingerprint(exchange: Exchange, body: bytes) -> str:
    scope = exchange.scope
    head = f"{scope['method']} {scope['path']}?{scope['query_string'].decode('latin-1')}\n"
    return sha256(head.encode() + body).hexdigest()
