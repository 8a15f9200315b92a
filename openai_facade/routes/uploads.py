"""`/v1/uploads`: files that come in parts of up to 64 MB, each stored as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from mcp_server.auth.principal import current_principal
from mcp_server.doors import DeclaredRoute
from mcp_server.services.file_uploads import FileUploadService
from openai_facade.endpoint import Handler, declare
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.idempotency import idempotent
from openai_facade.wire.form_stream import FormStream
from openai_facade.wire.uploads import completion, new_upload, part_object, upload_object
from openai_facade.wire.vector_stores import only

NEEDS_DATA = True

_ALL = "/v1/uploads"
_ONE = f"{_ALL}/{{upload_id}}"


def routes(facade: Facade) -> list[DeclaredRoute]:
    """Give the routes of this resource."""

    def route(path: str, handler: Handler, *, uploads: bool = False) -> DeclaredRoute:
        async def counted(exchange: Exchange) -> None:
            await facade.count(exchange)
            await handler(exchange)

        # A part is not held whole, so there is nothing to know it by; sent twice, it is two parts.
        once = counted if uploads else idempotent(facade, counted)
        return declare(facade, path, once, methods=["POST"], verb="write", uploads=uploads)

    resource = _Resource(facade)
    return [
        route(_ALL, resource.create),
        route(f"{_ONE}/parts", resource.add_part, uploads=True),
        route(f"{_ONE}/complete", resource.complete),
        route(f"{_ONE}/cancel", resource.cancel),
    ]


class _Resource:
    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    @property
    def _uploads(self) -> FileUploadService:
        return self._facade.data.file_uploads

    async def create(self, exchange: Exchange) -> None:
        length, terms = new_upload(await exchange.read_object())
        made = await self._uploads.create(current_principal(), length, terms)
        await _answer(exchange, upload_object(made))

    async def add_part(self, exchange: Exchange) -> None:
        async def data() -> AsyncGenerator[bytes]:
            # Only now: whoever may not write is told so before anything of the form is looked at.
            form = FormStream(exchange.chunks(), exchange.content_type, "data")
            async with aclosing(form.file()) as pieces:
                async for piece in pieces:
                    yield piece
            only(form.fields, ())

        async with aclosing(data()) as pieces:
            part = await self._uploads.add_part(current_principal(), _id(exchange), pieces)
        await _answer(exchange, part_object(part))

    async def complete(self, exchange: Exchange) -> None:
        part_ids, md5 = completion(await exchange.read_object())
        made = await self._uploads.complete(current_principal(), _id(exchange), part_ids, md5)
        await _answer(exchange, upload_object(made))

    async def cancel(self, exchange: Exchange) -> None:
        ended = await self._uploads.cancel(current_principal(), _id(exchange))
        await _answer(exchange, upload_object(ended))


async def _answer(exchange: Exchange, shown: dict[str, Any]) -> None:
    await exchange.answer(orjson.dumps(shown))


def _id(exchange: Exchange) -> str:
    return exchange.scope["path_params"]["upload_id"]
