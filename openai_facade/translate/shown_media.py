"""Loaded images and files as parts of a message that an upstream takes without asking further."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, cast

from mcp_server.services.media import Media

Part = dict[str, Any]

_TEXTUAL = frozenset({"application/json", "application/xml", "application/yaml"})


def source_of(part: Mapping[str, Any]) -> tuple[str, str] | None:
    """Give how (`file` or `url`) and where the bytes of a part are to be had; None if it needs none.

    Beside OpenAI's own forms, an image may be a file, and a file may have a URL, as in responses.
    """
    kind = part.get("type")
    if kind not in {"image_url", "file"} or not isinstance(part.get(kind), dict):
        return None
    inner = cast("dict[str, Any]", part[kind])
    if inner.get("file_id"):
        return "file", inner["file_id"]
    url: Any = inner.get("url" if kind == "image_url" else "file_url")
    if not url or url[:5].lower() == "data:":
        return None
    return "url", url


def place_of(part: Mapping[str, Any]) -> str:
    """Give the field of a part that says where its bytes are."""
    if part["type"] == "image_url":
        return "image_url.file_id" if part["image_url"].get("file_id") else "image_url.url"
    return "file.file_id" if part["file"].get("file_id") else "file.file_url"


def shown(part: Mapping[str, Any], media: Media) -> Part | None:
    """Give the part with its bytes in it; None if it should be an image and is none.

    A file that is a text becomes text, which every model reads; one that is an image becomes one.
    """
    is_image = media.media_type.startswith("image/")
    if part["type"] == "image_url":
        return _image(media, part["image_url"].get("detail")) if is_image else None
    name = part["file"].get("filename") or media.name
    if is_image:
        return _image(media, None)
    if media.media_type.startswith("text/") or media.media_type in _TEXTUAL:
        return {"type": "text", "text": f"{name}:\n{media.data.decode('utf-8', 'replace')}"}
    return {"type": "file", "file": {"filename": name, "file_data": _data_url(media)}}


def _image(media: Media, detail: str | None) -> Part:
    told = {"url": _data_url(media)} | ({} if detail is None else {"detail": detail})
    return {"type": "image_url", "image_url": told}


def _data_url(media: Media) -> str:
    return f"data:{media.media_type};base64,{base64.b64encode(media.data).decode()}"
