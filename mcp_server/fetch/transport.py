"""The transport under which an HTTP client of another library is led to outside addresses only."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from mcp_server.errors import LimitExceeded
from mcp_server.fetch.allowed import Allowed
from mcp_server.fetch.resolve import Resolve, addresses
from mcp_server.fetch.target import parse


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Each request is parsed, resolved and checked, and its connection goes to what was checked.

    An answer has at most `max_bytes`; no proxy of the environment is heeded.
    """

    def __init__(self, allowed: Allowed, resolve: Resolve, max_bytes: int) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._max_bytes = max_bytes
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request.

        Raises:
            InvalidInput: its URL may not be reached. Unavailable: nobody could tell.
        """
        target = parse(str(request.url))
        address = (await addresses(target, self._allowed, self._resolve))[0]
        extensions = dict(request.extensions)
        if target.address is None:  # the certificate is the name's, and the Host header stays
            extensions["sni_hostname"] = target.host
        sent = httpx2.Request(
            request.method,
            request.url.copy_with(host=str(address)),
            headers=request.headers,
            stream=request.stream,
            extensions=extensions,
        )
        response = await self._inner.handle_async_request(sent)
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Bounded(response.stream, self._max_bytes)
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._left -= len(piece)
            if self._left < 0:
                raise LimitExceeded("url: the answer is too large", param="url")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
