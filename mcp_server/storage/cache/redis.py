"""The cache on Redis or Valkey, shared by all processes that name the same URL."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mcp_server.errors import ConfigurationError, Unavailable
from mcp_server.storage.cache import (
    MAX_PAGE_BYTES,
    CacheEngine,
    Conditions,
    Entry,
    Holder,
    Place,
    Refusal,
)
from mcp_server.storage.cache import redis_scripts as scripts

if TYPE_CHECKING:
    from redis.asyncio import Redis

CONNECTIONS = 32
SECONDS = 5.0
CONNECT_SECONDS = 2.0
SCANNED = 1000


def connection_pool(url: str) -> Any:
    """Return connections to a `redis://` or `rediss://` URL, made when they are first used.

    Raises:
        ConfigurationError: the package redis is missing, or the URL does not fit.
    """
    try:
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise ConfigurationError(
            "ISTHMUS_REDIS_URL: the package redis is missing; install isthmus[redis]"
        ) from error
    try:
        return BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]  untyped options
            url,
            max_connections=CONNECTIONS,
            timeout=SECONDS,
            socket_timeout=SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            # A step whose answer was lost may have happened: it is not for us to try it again.
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigurationError(f"ISTHMUS_REDIS_URL: {error}") from error


@asynccontextmanager
async def open_redis(url: str) -> AsyncGenerator[CacheEngine]:
    """Yield the cache at a URL; raises the ConfigurationError of `connection_pool`."""
    pool = connection_pool(url)
    from redis.asyncio import Redis

    client = Redis.from_pool(pool)
    try:
        yield RedisCache(client)
    finally:
        await client.aclose()


class RedisCache:
    """Each step is one command or one script; a script is atomic in the server."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # its types promise either kind of client at once
        self._write, self._delete, self._page, self._acquire, self._release = (
            self._client.register_script(script)
            for script in (
                *(scripts.WRITE, scripts.DELETE, scripts.PAGE),
                *(scripts.ACQUIRE, scripts.RELEASE),
            )
        )

    async def read(self, tenant: str, namespace: str, keys: Sequence[str]) -> list[Entry]:
        names = [_name(tenant, "v", namespace, key) for key in keys]
        cells = await self._ask(self._client.mget(names))
        return [
            _entry(key, cell) for key, cell in zip(keys, cells, strict=True) if cell is not None
        ]

    async def write(self, place: Place, value: str, conditions: Conditions) -> Entry | Refusal:
        fence = conditions.fence
        names = [
            _at("v", place),
            _name(place.tenant, "i", place.namespace),
            _name(place.tenant, "n"),
            _name(place.tenant, "t", _given(fence)),
        ]
        given = [
            *(place.key, value, _given(conditions.expected), _given(fence)),
            *(_millis(conditions.ttl), "1" if conditions.keeps_expiry else ""),
            _name(place.tenant, "v", place.namespace, ""),
        ]
        answer = await self._ask(self._write(names, given))
        if answer[0] == b"done":
            return Entry(place.key, value, int(answer[1]), _moment(answer[2]))
        return Refusal(held=False) if answer[0] == b"fence" else Refusal(int(answer[1]))

    async def delete(self, place: Place, expected: int | None) -> int | Refusal:
        names = [_at("v", place), _name(place.tenant, "i", place.namespace)]
        answer = await self._ask(self._delete(names, [place.key, _given(expected)]))
        return int(answer[1]) if answer[0] == b"done" else Refusal(int(answer[1]))

    async def page(
        self, tenant: str, namespace: str, prefix: str, after: str | None, size: int
    ) -> tuple[list[Entry], bool]:
        start = prefix.encode()
        # No byte of UTF-8 is 0xFF: it stands behind every key under the prefix.
        end = b"(" + start + b"\xff" if start else b"+"
        begin = b"[" + start
        if after is not None and after.encode() >= start:
            begin = b"(" + after.encode()
        index, values = _name(tenant, "i", namespace), _name(tenant, "v", namespace, "")
        entries: list[Entry] = []
        room = MAX_PAGE_BYTES
        while len(entries) < size and room > 0:
            given = [values, begin, end, size - len(entries), room]
            last, found = await self._ask(self._page([index], given))
            if not last:
                break
            begin = b"(" + last
            cells = zip(found[::2], found[1::2], strict=True)
            entries += [_entry(key.decode(), cell) for key, cell in cells]
            room -= sum(len(cell) for cell in found[1::2])
        return entries, room <= 0

    async def erase(self, tenant: str) -> None:
        pattern, cursor = _name(tenant, "*"), 0
        while True:  # the one walk over the server's keys, in steps of bounded size
            walk = self._client.scan(cursor, match=pattern, count=SCANNED)
            cursor, names = await self._ask(walk)
            if names:
                await self._ask(self._client.unlink(*names))
            if not cursor:
                return

    async def answers(self) -> str:
        await self._ask(self._client.ping())
        return "Redis answers"

    async def acquire(
        self, place: Place, owner: str | None, ttl: float, token: int | None
    ) -> Holder:
        names = [_at("l", place), _name(place.tenant, "n")]
        given = [owner or "", _millis(ttl), _given(token), _name(place.tenant, "t", "")]
        taken, expires, by = await self._ask(self._acquire(names, given))
        return Holder(int(taken) if taken else None, by.decode() or None, _moment(expires))

    async def release(self, place: Place, token: int) -> bool:
        names = [_at("l", place), _name(place.tenant, "t", str(token))]
        return await self._ask(self._release(names, [token])) == 1

    async def _ask(self, answer: Any) -> Any:
        """Await an answer of the server.

        Raises:
            Unavailable: there is none, or it is a refusal; a change may have happened all the same.
        """
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(SECONDS):
                return await answer
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable("the cache does not answer; try again") from error


def _name(tenant: str, *parts: str) -> str:
    return ":".join((f"isthmus:{{{quote(tenant, safe='')}}}", *parts))


def _at(kind: str, place: Place) -> str:
    return _name(place.tenant, kind, place.namespace, place.key)


def _given(number: int | None) -> str:
    return "" if number is None else str(number)


def _millis(seconds: float | None) -> str:
    return "" if seconds is None else str(max(1, math.ceil(seconds * 1000)))


def _moment(millis: bytes) -> datetime | None:
    return datetime.fromtimestamp(int(millis) / 1000, UTC) if int(millis) else None


def _entry(key: str, cell: bytes) -> Entry:
    version, expires, value = cell.split(b" ", 2)
    return Entry(key, value.decode(), int(version), _moment(expires))
