"""Fetches outside URLs: each hop is parsed, resolved and checked once, and the connection goes to what was checked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from mcp_server.errors import InvalidInput, LimitExceeded, Timeout, Unavailable
from mcp_server.fetch.addresses import Address
from mcp_server.fetch.allowed import Allowed
from mcp_server.fetch.decode import ACCEPTED, Decoder
from mcp_server.fetch.resolve import Resolve, addresses, system_resolve
from mcp_server.fetch.target import Target, follow, parse

if TYPE_CHECKING:
    import aiohttp

    from mcp_server.fetch.transport import GuardedTransport

MOST_REDIRECTS = 5
MOST_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 20.0
_TRIED_ADDRESSES = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": "isthmus", "Accept": "*/*", "Accept-Encoding": ACCEPTED}


class Fetched:
    """An answer whose body is still to be read, once."""

    def __init__(self, target: Target, response: aiohttp.ClientResponse, max_bytes: int) -> None:
        self._target = target
        self._response = response
        self._max_bytes = max_bytes

    @property
    def url(self) -> str:
        """Where the body came from, after all redirects."""
        return str(self._target)

    @property
    def content_type(self) -> str | None:
        """The value of Content-Type, its parameters included."""
        return self._response.headers.get("Content-Type")

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the decoded body.

        Raises:
            LimitExceeded: it is larger than was allowed. Timeout, Unavailable: it did not come whole.
        """
        decoder = Decoder(self._response.headers.get("Content-Encoding", ""))
        left = self._max_bytes
        with _translated(self._target):
            async for received in self._response.content.iter_any():
                for piece in decoder.feed(received):
                    left -= len(piece)
                    if left < 0:
                        raise _too_large(self._max_bytes)
                    yield piece
        decoder.finish()

    async def read(self) -> bytes:
        """Return the decoded body; raises what `chunks` does."""
        return b"".join([piece async for piece in self.chunks()])


class Fetcher:
    """What every URL goes through that a caller, a document or another server names.

    Only http and https, only the public internet and what `allowed` admits. It follows redirects,
    keeps no cookie and no connection, and heeds no proxy of the environment.
    """

    def __init__(self, allowed: Allowed | None = None, resolve: Resolve = system_resolve) -> None:
        self._allowed = allowed or Allowed()
        self._resolve = resolve

    async def check(self, url: str) -> Target:
        """Return where a URL leads, if it may be reached now.

        Raises:
            InvalidInput: it is malformed, or may not be reached. Unavailable: nobody could tell.
        """
        target = parse(url)
        await addresses(target, self._allowed, self._resolve)
        return target

    def transport(self, max_bytes: int) -> GuardedTransport:
        """Return a transport for an httpx2 client, under the same guard; an answer has a bound."""
        from mcp_server.fetch.transport import GuardedTransport

        return GuardedTransport(self._allowed, self._resolve, max_bytes)

    @asynccontextmanager
    async def open(
        self,
        url: str,
        *,
        max_bytes: int,
        seconds: float = MOST_SECONDS,
        decide: Callable[[str], None] = lambda _: None,
    ) -> AsyncGenerator[Fetched]:
        """Open a URL whose decoded body has at most `max_bytes`; all of it is over after `seconds`.

        `decide` hears of the URL and of each that it redirects to before it is asked, and raises to refuse.

        Raises:
            InvalidInput: the URL, or one it redirects to, is malformed or may not be reached, or answers
                with an error. LimitExceeded: the body is too large. Timeout, Unavailable: no answer.
        """
        target = parse(url)
        try:
            async with asyncio.timeout(seconds):
                for _ in range(MOST_REDIRECTS + 1):
                    decide(str(target))
                    async with self._ask(target) as response:
                        location = response.headers.get("Location")
                        if response.status not in _REDIRECTS or location is None:
                            _require_ok(target, response, max_bytes)
                            yield Fetched(target, response, max_bytes)
                            return
                    target = follow(target, location)
        except TimeoutError as error:
            raise Timeout(
                f"url: {target.authority} took over {seconds:g} s", param="url"
            ) from error
        raise InvalidInput(f"url: it redirects more than {MOST_REDIRECTS} times", param="url")

    @asynccontextmanager
    async def _ask(self, target: Target) -> AsyncGenerator[aiohttp.ClientResponse]:
        import aiohttp

        where = await addresses(target, self._allowed, self._resolve)
        with _translated(target):
            tls = (
                await asyncio.to_thread(ssl.create_default_context) if _is_secure(target) else None
            )
        connector = aiohttp.TCPConnector(force_close=True, use_dns_cache=False, ssl=tls or True)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=_IDLE_SECONDS
            ),
        ) as session:
            response = await _connect(session, target, where[:_TRIED_ADDRESSES])
            try:
                yield response
            finally:
                response.close()


async def _connect(
    session: aiohttp.ClientSession, target: Target, where: Sequence[Address]
) -> aiohttp.ClientResponse:
    """Ask the first address that accepts a connection.

    The URL that the client library sees holds an address and no name: there is nothing left to look up.
    """
    import aiohttp
    from yarl import URL

    *others, last = where
    for address in (*others, last):
        host = f"[{address}]" if address.version == 6 else str(address)
        url = URL(f"{target.scheme}://{host}:{target.port}{target.path}", encoded=True)
        try:
            with _translated(target):
                return await session.get(
                    url,
                    headers={**_HEADERS, "Host": target.authority},
                    allow_redirects=False,
                    server_hostname=target.host if _is_secure(target) else None,
                )
        except Unavailable as error:
            if address is last or not isinstance(error.__cause__, aiohttp.ClientConnectorError):
                raise
    raise AssertionError("the last address returns or raises")


def _is_secure(target: Target) -> bool:
    return target.scheme == "https"


def _require_ok(target: Target, response: aiohttp.ClientResponse, max_bytes: int) -> None:
    status = response.status
    if status == 429 or status >= 500:
        raise Unavailable(f"url: {target.authority} answers {status}; try again later", param="url")
    if status not in {200, 203}:
        raise InvalidInput(f"url: {target.authority} answers {status}", param="url")
    if (response.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> LimitExceeded:
    return LimitExceeded(f"url: the answer is larger than {max_bytes} bytes", param="url")


@contextmanager
def _translated(target: Target) -> Generator[None]:
    import aiohttp

    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise InvalidInput(
            f"url: the certificate of {target.authority} is not valid for it", param="url"
        ) from error
    except aiohttp.ServerTimeoutError as error:
        raise Timeout(f"url: {target.authority} does not answer in time", param="url") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(
            f"url: {target.authority} does not answer, or breaks off", param="url"
        ) from error
