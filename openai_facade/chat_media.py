"""Fetches the images and files of a chat, so that the model that is asked has to fetch nothing."""

from __future__ import annotations

from typing import Any, cast

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, LimitExceeded, NotFound
from mcp_server.services.media import Media, MediaService
from openai_facade.translate.shown_media import place_of, shown, source_of
from openai_facade.wire.faults import InvalidRequest, invalid

MOST_BYTES = 20 * 1024 * 1024
"""How large one image or file may be, and all that a request has fetched."""
MOST_PARTS = 20

Message = dict[str, Any]


async def with_media(
    media: MediaService, principal: Principal, messages: list[Message]
) -> list[Message]:
    """Give the messages with the bytes of every image and file in them; they are not changed.

    Raises:
        InvalidRequest: names the part whose bytes are not to be had, or are no image.
        AppError: an outside server does not answer.
    """
    loader = _Loader(media, principal)
    return [
        await loader.message(f"messages[{index}]", message)
        if isinstance(message.get("content"), list)
        else message
        for index, message in enumerate(messages)
    ]


class _Loader:
    def __init__(self, media: MediaService, principal: Principal) -> None:
        self._media = media
        self._principal = principal
        self._bytes_left = MOST_BYTES
        self._parts_left = MOST_PARTS

    async def message(self, place: str, message: Message) -> Message:
        parts = cast("list[dict[str, Any]]", message["content"])
        if not any(source_of(part) for part in parts):
            return message
        told = [
            await self._part(f"{place}.content[{index}]", part) for index, part in enumerate(parts)
        ]
        return {**message, "content": told}

    async def _part(self, place: str, part: dict[str, Any]) -> dict[str, Any]:
        source = source_of(part)
        if source is None:
            return part
        param = f"{place}.{place_of(part)}"
        self._parts_left -= 1
        if self._parts_left < 0:
            raise invalid(param, f"a request may have at most {MOST_PARTS} such parts.")
        media = await self._load(param, *source)
        self._bytes_left -= len(media.data)
        made = shown(part, media)
        if made is None:
            raise _refused(param, f"it is {media.media_type!r} and no image.", "invalid_image_url")
        return made

    async def _load(self, param: str, kind: str, where: str) -> Media:
        load = self._media.of_file if kind == "file" else self._media.of_url
        try:
            return await load(self._principal, where, self._bytes_left)
        except (InvalidInput, NotFound) as error:
            raise _refused(param, f"{error.message}.", "invalid_value") from error
        except LimitExceeded as error:
            most = f"images and files of a request have at most {MOST_BYTES} bytes together."
            raise _refused(param, most, "file_too_large") from error


def _refused(param: str, reason: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': {reason}", param=param, wire_code=code)
