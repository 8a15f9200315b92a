"""`/uploads/`: the resumable uploads of tus 1.0.0, which many clients speak (https://tus.io/protocols/resumable-upload)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from email.utils import format_datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from mcp_server.auth.principal import current_principal
from mcp_server.door_errors import ClientLeft, MethodNotAllowed, render_plain
from mcp_server.doors import DeclaredRoute
from mcp_server.errors import AppError, InvalidInput
from mcp_server.services.objects.feed import ALGORITHMS, Checksum
from mcp_server.services.objects.upload_rows import Upload
from mcp_server.services.objects.uploads import Terms, UploadService

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,expiration,termination,checksum"
CHUNK = "application/offset+octet-stream"
PATH = "/uploads/"
MOST_HEADER = 16 * 1024
# What Upload-Metadata may say of the object; anything else is only shown again.
_TEXTS = ("bucket", "key", "content_type", "if_match", "if_none_match")
_MAPPINGS = ("metadata", "tags")
# How widespread clients call them.
_ALIASES = {"filename": "key", "filetype": "content_type"}

_TEXT_MAPPING = TypeAdapter(dict[str, str])

Endpoint = Callable[[Request], Awaitable[Response]]


class WrongVersion(AppError):
    """The client speaks another version of the protocol."""

    code = "invalid_input"
    status = 412


class WrongType(AppError):
    """The body is not declared as a chunk."""

    code = "invalid_input"
    status = 415


class _Door:
    """The endpoints; who sends them, and with which key, the gate has seen to."""

    def __init__(self, uploads: UploadService) -> None:
        self._uploads = uploads

    async def describe(self, request: Request) -> Response:
        del request
        return _answer(
            204,
            {
                "Tus-Version": VERSION,
                "Tus-Extension": EXTENSIONS,
                "Tus-Max-Size": str(self._uploads.most_bytes),
                "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
            },
        )

    async def create(self, request: Request) -> Response:
        length = _number(request, "Upload-Length")
        given = _metadata(request.headers.get("upload-metadata", ""))
        bucket, key = given.pop("bucket"), given.pop("key")
        principal = current_principal()
        upload = await self._uploads.create(principal, bucket, key, length, Terms(**given))
        headers = {"Location": PATH + upload.id}
        if request.headers.get("content-type", "") == CHUNK:
            checksum = _checksum(request)
            async with aclosing(_chunks(request)) as chunks:
                upload = await self._uploads.append(principal, upload.id, 0, chunks, checksum)
            headers["Upload-Offset"] = str(upload.received)
        return _answer(201, headers | _progress(upload))

    async def show(self, request: Request) -> Response:
        upload = await self._uploads.find(current_principal(), request.path_params["upload"])
        headers = {
            "Upload-Offset": str(upload.received),
            "Upload-Length": str(upload.length),
            "Cache-Control": "no-store",
        }
        if upload.header:
            headers["Upload-Metadata"] = upload.header
        return _answer(200, headers | _progress(upload))

    async def append(self, request: Request) -> Response:
        if request.headers.get("content-type", "") != CHUNK:
            raise WrongType(f"Content-Type: send a chunk as {CHUNK}")
        offset, checksum = _number(request, "Upload-Offset"), _checksum(request)
        principal, upload_id = current_principal(), request.path_params["upload"]
        async with aclosing(_chunks(request)) as chunks:
            upload = await self._uploads.append(principal, upload_id, offset, chunks, checksum)
        return _answer(204, {"Upload-Offset": str(upload.received), **_progress(upload)})

    async def end(self, request: Request) -> Response:
        await self._uploads.end(current_principal(), request.path_params["upload"])
        return _answer(204, {})

    async def override(self, request: Request) -> Response:
        """Serve clients that cannot send PATCH or DELETE, as the protocol asks."""
        wanted = request.headers.get("x-http-method-override", "")
        endpoints = {"PATCH": self.append, "DELETE": self.end}
        if wanted not in endpoints:
            raise MethodNotAllowed(
                "POST is served here with X-HTTP-Method-Override: PATCH or DELETE",
                allow="HEAD, PATCH, DELETE",
            )
        return await endpoints[wanted](request)


def routes(uploads: UploadService) -> list[DeclaredRoute]:
    """Return the routes of uploads; policy decides on the object that each will be."""
    door = _Door(uploads)
    one = PATH + "{upload}"
    return [
        _route(PATH, door.create, "POST"),
        _route(PATH, _speaking(door.describe, any_version=True), "OPTIONS", wrapped=True),
        _route(one, door.show, "HEAD"),
        _route(one, door.append, "PATCH"),
        _route(one, door.end, "DELETE"),
        _route(one, door.override, "POST"),
    ]


def _route(path: str, endpoint: Endpoint, method: str, *, wrapped: bool = False) -> DeclaredRoute:
    return DeclaredRoute(
        path,
        endpoint if wrapped else _speaking(endpoint),
        methods=[method],
        verb="write",
        door="plain",
        uploads=True,
    )


def _speaking(endpoint: Endpoint, *, any_version: bool = False) -> Endpoint:
    """Check the protocol's version first, and answer in its form."""

    async def spoken(request: Request) -> Response:
        try:
            if not any_version and request.headers.get("tus-resumable") != VERSION:
                raise WrongVersion(f"Tus-Resumable: this server speaks {VERSION}")
            return await endpoint(request)
        except ClientLeft:
            raise
        except AppError as error:
            answer = render_plain(error, request.scope)
            answer.headers["Tus-Resumable"] = VERSION
            if isinstance(error, WrongVersion):
                answer.headers["Tus-Version"] = VERSION
            return answer

    return spoken


def _answer(status: int, headers: dict[str, str]) -> Response:
    return Response(status_code=status, headers={"Tus-Resumable": VERSION, **headers})


def _progress(upload: Upload) -> dict[str, str]:
    """Return when an unfinished upload expires, or what a finished one has become."""
    if upload.completed is None:
        return {"Upload-Expires": format_datetime(upload.expires_at, usegmt=True)}
    return {"ETag": f'"{upload.completed["etag"]}"', "Isthmus-Object": upload.completed["id"]}


def _number(request: Request, name: str) -> int:
    given = request.headers.get(name, "")
    if not given.isascii() or not given.isdecimal() or len(given) > 18:
        raise InvalidInput(f"{name}: {given[:20]!r} is no number of bytes", param=name)
    return int(given)


def _checksum(request: Request) -> Checksum | None:
    given = request.headers.get("upload-checksum")
    if given is None:
        return None
    algorithm, _, encoded = given.partition(" ")
    if algorithm not in ALGORITHMS:
        raise InvalidInput(
            f"Upload-Checksum: {algorithm[:20]!r} is none of {', '.join(ALGORITHMS)}"
        )
    return Checksum(algorithm, _decoded(encoded, "Upload-Checksum"))


def _metadata(header: str) -> dict[str, Any]:
    """Return what Upload-Metadata says of the object, as bucket, key and `Terms`.

    Raises:
        InvalidInput: it is malformed, or names no key.
    """
    if len(header) > MOST_HEADER:
        raise InvalidInput(f"Upload-Metadata: it is longer than {MOST_HEADER} bytes")
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in header.split(","))):
        name, _, encoded = pair.partition(" ")
        found[name] = _text(_decoded(encoded, f"Upload-Metadata: {name}"), name)
    for alias, name in _ALIASES.items():
        if alias in found:
            found.setdefault(name, found[alias])
    if "key" not in found:
        raise InvalidInput("Upload-Metadata: it names no key; send `key BASE64` in it", param="key")
    given: dict[str, Any] = {"bucket": "default", "header": header}
    given |= {name: found[name] for name in _TEXTS if name in found}
    return given | {name: _mapping(found[name], name) for name in _MAPPINGS if name in found}


def _decoded(encoded: str, where: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{where}: {encoded[:20]!r} is not base64") from error


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"Upload-Metadata: {name} is not UTF-8") from error


def _mapping(value: str, name: str) -> dict[str, str]:
    try:
        return _TEXT_MAPPING.validate_json(value)
    except ValidationError as error:
        raise InvalidInput(
            f"Upload-Metadata: {name} is not a JSON object of strings", param=name
        ) from error


async def _chunks(request: Request) -> AsyncGenerator[bytes]:
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("the client left before its chunk was complete")
        if message.get("body"):
            yield message["body"]
        more = message.get("more_body", False)
