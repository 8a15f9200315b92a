"""`/links/TOKEN`: one object by a short-lived right instead of a key, got as often as wanted or put once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import Scope, Send

from mcp_server.auth.principal import Principal
from mcp_server.door_errors import BodyTooLarge, ClientLeft, MethodNotAllowed, render_plain
from mcp_server.doors import DeclaredRoute
from mcp_server.errors import Conflict
from mcp_server.policy import Verb
from mcp_server.ranges import (
    Judgement,
    PreconditionFailed,
    RangeNotSatisfiable,
    Span,
    judge,
    span,
)
from mcp_server.request_body import declared_length
from mcp_server.services.objects.conditions import Condition
from mcp_server.services.objects.links import PATH, LinkService, Ticket
from mcp_server.services.objects.reads import Found
from mcp_server.storage.objects import Presigning

_TICKET = "isthmus.ticket"

Endpoint = Callable[[Request], Awaitable[Response]]

# How long the blob store's own URL holds to which a link redirects.
REDIRECT_SECONDS = 60

# Whatever was stored, it is a download of nobody's page: no script in it runs with our origin.
_GUARDS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Door:
    """The endpoints of links. Their policy is decided for the link's maker, at each use."""

    def __init__(self, links: LinkService) -> None:
        self._links = links

    async def redeem(self, scope: Scope) -> Principal:
        ticket = await self._links.redeem(scope["path_params"]["token"])
        scope[_TICKET] = ticket
        return ticket.principal

    async def get(self, request: Request) -> Response:
        found = await self._links.find(_ticket(request, "GET"))
        try:
            return _answer(request, found)
        except RangeNotSatisfiable as error:
            answer = render_plain(error, request.scope)
            answer.headers["Content-Range"] = f"bytes */{error.size}"
            return answer

    async def put(self, request: Request) -> Response:
        ticket = _ticket(request, "PUT")
        headers = request.headers
        condition = Condition(headers.get("if-match"), headers.get("if-none-match"))
        async with aclosing(_body(request, ticket.row.max_bytes)) as chunks:
            try:
                info = await self._links.put(ticket, chunks, condition)
            except Conflict as error:
                raise PreconditionFailed(error.message) from error
        return JSONResponse(info, status_code=201, headers={"ETag": f'"{info["etag"]}"'})

    def route(self, endpoint: Endpoint, method: str, verb: Verb) -> DeclaredRoute:
        return DeclaredRoute(
            PATH + "{token}",
            endpoint,
            methods=[method],
            verb=verb,
            door="plain",
            public=True,
            uploads=method == "PUT",
            ticket=self.redeem,
        )


def routes(links: LinkService) -> list[DeclaredRoute]:
    """Return the routes of links."""
    door = _Door(links)
    return [door.route(door.get, "GET", "read"), door.route(door.put, "PUT", "write")]


def _ticket(request: Request, method: str) -> Ticket:
    ticket: Ticket = request.scope[_TICKET]
    if ticket.row.method != method:
        allow = "GET, HEAD" if ticket.row.method == "GET" else "PUT"
        raise MethodNotAllowed(f"this link is for {ticket.row.method}", allow=allow)
    return ticket


def _answer(request: Request, found: Found) -> Response:
    """Return what a GET or HEAD asks for.

    Raises:
        PreconditionFailed: another version is asked for. RangeNotSatisfiable: such bytes do not exist.
    """
    stat = found.stat
    headers = {"ETag": f'"{stat["etag"]}"', "Cache-Control": "private, no-cache", **_GUARDS}
    if judge(request.headers, stat["etag"]) is Judgement.NOT_MODIFIED:
        return Response(status_code=304, headers=headers)
    disposition = _disposition(stat["key"])
    # The store has ETags of its own, so what is conditional on ours is answered here.
    plain = request.method == "GET" and not {"if-match", "if-range"} & set(request.headers)
    if plain and isinstance(found.blobs, Presigning):
        url = found.blobs.link_to_get(
            found.blob,
            seconds=REDIRECT_SECONDS,
            content_type=stat["content_type"],
            disposition=disposition,
        )
        return RedirectResponse(url, 307, headers={**headers, "Cache-Control": "no-store"})
    asked = span(request.headers, stat["etag"], stat["size"])
    headers |= {
        "Accept-Ranges": "bytes",
        "Content-Type": stat["content_type"],
        "Content-Length": str(asked.end - asked.start),
        "Content-Disposition": disposition,
    }
    if asked.partial:
        headers["Content-Range"] = f"bytes {asked.start}-{asked.end - 1}/{stat['size']}"
    status = 206 if asked.partial else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return _Bytes(found, asked, status, headers)


class _Bytes(StreamingResponse):
    """Bytes of one object, closed whoever leaves first."""

    def __init__(self, found: Found, asked: Span, status: int, headers: dict[str, str]) -> None:
        self._chunks = found.bytes(asked.start, asked.end)
        super().__init__(self._chunks, status, headers)

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._chunks):
            await super().stream_response(send)


def _disposition(key: str) -> str:
    """Return RFC 6266's header for the last part of a key: a download, never a page."""
    name = key.rpartition("/")[2]
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


async def _body(request: Request, most: int | None) -> AsyncGenerator[bytes]:
    """Yield the request's body.

    Raises:
        BodyTooLarge: it has more bytes than the link allows. ClientLeft: it has no end.
    """
    if most is None:
        most = 2**63
    too_large = BodyTooLarge(f"the body is over the {most} bytes of this link")
    declared = declared_length(request.scope)
    if most < declared < float("inf"):
        raise too_large
    read = 0
    async for chunk in _chunks(request):
        read += len(chunk)
        if read > most:
            raise too_large
        yield chunk


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("the client left before its request was complete")
        if message.get("body"):
            yield message["body"]
        more = message.get("more_body", False)
