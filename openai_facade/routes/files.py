"""`/v1/files`: the objects of bucket `files`, sent in and out as bytes that nobody holds whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NoReturn

import orjson

from mcp_server.auth.principal import current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.policy import Verb
from mcp_server.ranges import span
from mcp_server.services.files import FileTerms, UnknownFile
from openai_facade.endpoint import Handler, declare
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.wire.faults import InvalidRequest
from openai_facade.wire.fields import one_of
from openai_facade.wire.files import (
    SHOWN,
    checked_filename,
    checked_media_type,
    checked_purpose,
    file_object,
    lifetime_of_form,
)
from openai_facade.wire.form_stream import FormStream
from openai_facade.wire.pages import list_object, page_arguments, query_of, unknown_cursor

NEEDS_DATA = True

_ONE = "/v1/files/{file_id}"
_MOST_LISTED = 10_000


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    def route(
        path: str, method: str, verb: Verb, handler: Handler, *, uploads: bool = False
    ) -> DeclaredRoute:
        async def counted(exchange: Exchange) -> None:
            await facade.count(exchange)
            await handler(exchange)

        return declare(facade, path, counted, methods=[method], verb=verb, uploads=uploads)

    resource = _Resource(facade)
    return [
        route("/v1/files", "POST", "write", resource.create, uploads=True),
        route("/v1/files", "GET", "read", resource.list),
        route(_ONE, "GET", "read", resource.retrieve),
        route(_ONE, "DELETE", "write", resource.delete),
        route(f"{_ONE}/content", "GET", "read", resource.content),
    ]


class _Resource:
    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    async def create(self, exchange: Exchange) -> None:
        forms: list[FormStream] = []

        async def checked() -> AsyncGenerator[bytes]:
            # Only now: whoever may not write is told so before anything of the form is looked at.
            form = FormStream(exchange.chunks(), exchange.content_type, "file")
            forms.append(form)
            async with aclosing(form.file()) as pieces:
                async for piece in pieces:
                    yield piece
            _terms(form)  # before the bytes are a blob: what does not fit leaves none behind

        made = await self._facade.data.files.create(
            current_principal(), checked(), lambda: _terms(forms[0])
        )
        await exchange.answer(orjson.dumps(file_object(made)))

    async def list(self, exchange: Exchange) -> None:
        query = query_of(exchange.scope)
        page = page_arguments(query, default=_MOST_LISTED, most=_MOST_LISTED)
        if page.before is not None:
            _refuse("before", "files are listed behind 'after'.")
        purpose = query.get("purpose") or None
        if purpose is not None:
            one_of(SHOWN)("purpose", purpose)
        try:
            found = await self._facade.data.files.list(
                current_principal(),
                purpose=purpose,
                after=page.after,
                limit=page.limit,
                newest_first=page.order == "desc",
            )
        except UnknownFile as error:
            raise unknown_cursor("after", page.after or "") from error
        await exchange.answer(
            orjson.dumps(list_object([file_object(each) for each in found.items], found.has_more))
        )

    async def retrieve(self, exchange: Exchange) -> None:
        found = await self._facade.data.files.get(current_principal(), _id(exchange))
        await exchange.answer(orjson.dumps(file_object(found)))

    async def delete(self, exchange: Exchange) -> None:
        file_id = _id(exchange)
        await self._facade.data.files.delete(current_principal(), file_id)
        await exchange.answer(orjson.dumps({"id": file_id, "object": "file", "deleted": True}))

    async def content(self, exchange: Exchange) -> None:
        found = await self._facade.data.files.content(current_principal(), _id(exchange))
        stat = found.stat
        asked = span(exchange.headers, stat["etag"], stat["size"])
        headers = [
            (b"content-type", stat["content_type"].encode("latin-1", "replace")),
            (b"content-length", b"%d" % (asked.end - asked.start)),
            (b"accept-ranges", b"bytes"),
            (b"etag", f'"{stat["etag"]}"'.encode()),
            # A file is whatever a client sent: no browser may take it for a page of this server.
            (b"content-disposition", b"attachment"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if asked.partial:
            shown = f"bytes {asked.start}-{asked.end - 1}/{stat['size']}"
            headers.append((b"content-range", shown.encode()))
        async with aclosing(found.bytes(asked.start, asked.end)) as pieces:
            await exchange.send_bytes(206 if asked.partial else 200, headers, pieces)


def _terms(form: FormStream) -> FileTerms:
    return FileTerms(
        # Name and type are of the part that the file comes in.
        checked_filename(form.filename or "file", "file"),
        checked_purpose(form.fields.get("purpose")),
        checked_media_type(form.content_type, "file"),
        lifetime_of_form(form.fields),
    )


def _refuse(param: str, why: str) -> NoReturn:
    raise InvalidRequest(
        f"Unsupported parameter: '{param}': {why}", param=param, wire_code="unsupported_parameter"
    )


def _id(exchange: Exchange) -> str:
    return exchange.scope["path_params"]["file_id"]
