"""Bodies and objects of `/v1/uploads`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_server.services.file_uploads import MOST_PARTS, FilePart, FileUpload
from mcp_server.services.files import FileTerms
from openai_facade.wire.faults import invalid
from openai_facade.wire.fields import as_array, as_string, integer, required
from openai_facade.wire.files import (
    checked_filename,
    checked_media_type,
    checked_purpose,
    file_object,
    lifetime,
)
from openai_facade.wire.vector_stores import only

_LONGEST_NAME = 1024
_NEW = ("filename", "purpose", "bytes", "mime_type", "expires_after")
_MD5 = 32


def new_upload(body: Mapping[str, Any]) -> tuple[int, FileTerms]:
    """Return of how many bytes the file will be, and what it will be beside them.

    Raises:
        InvalidRequest: names what does not fit.
    """
    only(body, _NEW)
    filename = _text(body, "filename")
    if not filename or len(filename) > _LONGEST_NAME:
        raise invalid("filename", f"expected 1 to {_LONGEST_NAME} characters.")
    purpose = checked_purpose(_text(body, "purpose"))
    length = required(body, "bytes")
    integer(0, 2**53)("bytes", length)
    kind = checked_media_type(_text(body, "mime_type"), "mime_type")
    filename = checked_filename(filename, "filename")
    return length, FileTerms(filename, purpose, kind, lifetime(body.get("expires_after")))


def completion(body: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """Return the ids of the parts in order, and the MD5 of the whole if it is given.

    Raises:
        InvalidRequest: names what does not fit.
    """
    only(body, ("part_ids", "md5"))
    given = as_array("part_ids", required(body, "part_ids"), "strings")
    if len(given) > MOST_PARTS:
        raise invalid("part_ids", f"expected at most {MOST_PARTS} parts, but got {len(given)}.")
    part_ids = [as_string(f"part_ids[{n}]", each) for n, each in enumerate(given)]
    if body.get("md5") is None:
        return part_ids, None
    md5 = as_string("md5", body["md5"])
    if len(md5) != _MD5:
        raise invalid("md5", f"expected {_MD5} hexadecimal digits.")
    return part_ids, md5


def upload_object(upload: FileUpload) -> dict[str, Any]:
    """Give the upload object; `file` is there once it is completed."""
    shown: dict[str, Any] = {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
    }
    if upload.file is not None:
        shown["file"] = file_object(upload.file)
    return shown


def part_object(part: FilePart) -> dict[str, Any]:
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": part.created_at,
        "upload_id": part.upload_id,
    }


def _text(body: Mapping[str, Any], name: str) -> str:
    return as_string(name, required(body, name))
