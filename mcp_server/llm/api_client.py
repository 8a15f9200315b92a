"""Speak HTTP with an OpenAI-compatible API: JSON answers, event streams, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import orjson

from mcp_server.errors import InvalidInput, Timeout, Unavailable
from mcp_server.llm import TookTooLong
from mcp_server.llm.api_errors import refusal
from mcp_server.llm.silence import Silence
from mcp_server.llm.sse import EventParser, LineTooLongError
from mcp_server.llm.terms import Terms

if TYPE_CHECKING:
    import aiohttp

_QUEUE_SECONDS = 30.0  # for a free connection, name resolution included
_READ_SECONDS = 600.0  # for an answer that comes whole, as OpenAI's own clients wait
_CONNECTIONS = 256
# Below the 5 s after which uvicorn (vLLM and others) drops an idle connection: no race with it.
_KEEPALIVE_SECONDS = 4.0
_DRAIN_SECONDS = 0.05
_ERROR_BYTES = 256 * 1024
_DONE = b"[DONE]"


class NotAnswered(Unavailable):
    """Not even the head of an answer came: nobody is there, or it died as we asked."""


_PLAIN = Terms()


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer that is passed on as it is: its media type and its bytes as they come."""

    content_type: str
    pieces: AsyncIterator[bytes]


class ApiClient:
    """One base URL and the bearer for it; `name` stands for it in messages."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        name: str | None = None,
        terms: Terms = _PLAIN,
    ) -> None:
        self.name = name or base_url
        self._base_url = base_url
        self._api_key = api_key
        self._terms = terms
        self._opened: aiohttp.ClientSession | None = None

    async def get(self, path: str) -> object:
        """GET `path`: the JSON of the answer. Raises UpstreamError, Unavailable or Timeout."""
        return await self._fetch("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> object:
        """POST `body` as JSON: the JSON of the answer. Raises UpstreamError, Unavailable or Timeout."""
        return await self._fetch("POST", path, _encode(body))

    async def post_stream(
        self, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[list[bytes | None]]:
        """POST `body`: the data of the events that came in each read; None stands for `[DONE]`.

        Raises before the first event if the answer is not an event stream with status 200. Closing
        the generator closes the connection.
        """
        with self._translated():
            async with await self._open("POST", path, _encode(body), streams=True) as response:
                await self._require_ok(response)
                if response.content_type == "application/json":
                    raise refusal(await self._json(response), 502, self.name)
                parser, begun = EventParser(), False
                with Silence(response) as silence:
                    while received := await silence.read():
                        events = parser.feed(received)
                        if not events:
                            continue
                        if not begun:  # the first token has come
                            begun = True
                            silence.begin(self._terms.between_tokens_seconds)
                        if _DONE in events:
                            await _drain(response)
                            yield [*events[: events.index(_DONE)], None]
                            return
                        yield cast("list[bytes | None]", events)
                last = parser.finish()
                if last:
                    yield [None if event == _DONE else event for event in last]

    @asynccontextmanager
    async def post_raw(
        self, path: str, data: bytes, content_type: str
    ) -> AsyncGenerator[RawAnswer]:
        """POST `data` as it is; the answer is open while the block runs. Raises like `post`."""
        headers = {"Content-Type": content_type}
        with self._translated():
            async with await self._open("POST", path, data, headers=headers) as response:
                await self._require_ok(response)
                kind = response.headers.get("Content-Type", "application/octet-stream")
                yield RawAnswer(kind, response.content.iter_any())

    async def close(self) -> None:
        """Close all connections."""
        if self._opened is not None:
            await self._opened.close()

    async def _fetch(self, method: str, path: str, data: bytes | None) -> object:
        with self._translated():
            async with await self._open(method, path, data) as response:
                await self._require_ok(response)
                return await self._json(response)

    async def _open(
        self,
        method: str,
        path: str,
        data: bytes | None,
        *,
        headers: Mapping[str, str] | None = None,
        streams: bool = False,
    ) -> aiohttp.ClientResponse:
        import aiohttp

        session = self._session()
        timeout = self._stream_timeout if streams else self._whole_timeout

        async def ask() -> aiohttp.ClientResponse:
            return await session.request(
                method,
                self._base_url + path,
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=timeout,
            )

        try:
            return await ask()
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            pass  # it closed an idle connection as we took it, and has not seen the request
        try:
            return await ask()
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise NotAnswered(f"{self.name} closes the connection without an answer.") from error

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            import aiohttp

            headers = {"Content-Type": "application/json"}
            if self._api_key:
                headers["Authorization"] = f"Bearer {self._api_key}"
            self._whole_timeout, self._stream_timeout = self._timeouts()
            self._opened = aiohttp.ClientSession(
                headers=headers,
                connector=aiohttp.TCPConnector(
                    limit=_CONNECTIONS, keepalive_timeout=_KEEPALIVE_SECONDS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        if self._opened.closed:
            raise NotAnswered(f"{self.name} is no longer there.")
        return self._opened

    def _timeouts(self) -> tuple[aiohttp.ClientTimeout, aiohttp.ClientTimeout]:
        import aiohttp

        terms = self._terms
        first = max(terms.first_token_seconds, terms.between_tokens_seconds)
        times = (terms.total_seconds or _READ_SECONDS, first)
        whole, streams = (
            aiohttp.ClientTimeout(
                total=terms.total_seconds,
                connect=_QUEUE_SECONDS,
                sock_connect=terms.connect_seconds,
                sock_read=seconds,
            )
            for seconds in times
        )
        return whole, streams

    async def _require_ok(self, response: aiohttp.ClientResponse) -> None:
        if 200 <= response.status < 300:
            return
        if response.status < 400:
            raise Unavailable(f"{self.name} redirects elsewhere: configure the address it names.")
        received = bytearray()
        async for part in response.content.iter_any():
            received += part
            if len(received) > _ERROR_BYTES:
                break
        try:
            payload: object = orjson.loads(bytes(received))
        except orjson.JSONDecodeError:
            payload = received.decode(errors="replace") if _is_text(response) else None
        raise refusal(payload, response.status, self.name, _retry_after(response))

    async def _json(self, response: aiohttp.ClientResponse) -> object:
        try:
            return cast("object", orjson.loads(await response.read()))
        except orjson.JSONDecodeError as error:
            raise Unavailable(f"{self.name} answered with something that is not JSON.") from error

    @contextmanager
    def _translated(self) -> Generator[None]:
        import aiohttp

        try:
            yield
        except aiohttp.ConnectionTimeoutError as error:
            raise NotAnswered(f"{self.name} accepts no connection in time.") from error
        except aiohttp.ClientConnectorError as error:
            raise NotAnswered(f"{self.name} does not answer: {error.strerror}.") from error
        except aiohttp.SocketTimeoutError as error:
            raise Timeout(f"{self.name} was silent for too long.") from error
        except TimeoutError as error:
            raise TookTooLong(
                f"{self.name} did not end its answer within {self._terms.total_seconds:g} s."
            ) from error
        except LineTooLongError as error:
            raise Unavailable(f"{self.name} sent an event of more than 16 MiB.") from error
        except (aiohttp.ClientError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise Unavailable(
                f"{self.name} does not answer: {reason or type(error).__name__}."
            ) from error


@asynccontextmanager
async def open_api_client(
    base_url: str, api_key: str | None, *, name: str | None = None, terms: Terms = _PLAIN
) -> AsyncGenerator[ApiClient]:
    """Open a client; it connects when it is first used."""
    client = ApiClient(base_url, api_key, name=name, terms=terms)
    try:
        yield client
    finally:
        await client.close()


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:  # an integer beyond 64 bits, half a surrogate pair
        raise InvalidInput(f"the request has no JSON form: {error}.") from error


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read what may follow `[DONE]`, so that the connection can serve again."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            await response.content.read()
    except TimeoutError:
        response.close()


def _is_text(response: aiohttp.ClientResponse) -> bool:
    return response.content_type == "text/plain"  # an HTML page of a proxy says nothing to a client


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    for header, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = response.headers.get(header, "")
        if value.replace(".", "", 1).isascii() and value.replace(".", "", 1).isdecimal():
            return float(value) * scale
    return None
