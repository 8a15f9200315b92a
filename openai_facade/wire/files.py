"""Terms and objects of `/v1/files` and `/v1/uploads`."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from mcp_server.errors import InvalidInput
from mcp_server.services.files import FileRecord
from mcp_server.services.objects import attributes, content
from openai_facade.wire.faults import InvalidRequest, invalid, missing, unsupported
from openai_facade.wire.fields import as_object, integer, one_of, required

# "evals" is a purpose of requests only, and of a product that is not here.
GIVEN = ("assistants", "batch", "fine-tune", "vision", "user_data")
SHOWN = (*GIVEN, "assistants_output", "batch_output", "fine-tune-results")

# OpenAI's document 2.3.0: an hour to 30 days.
_SHORTEST, _LONGEST = 3600, 2_592_000
_EXPIRES = "expires_after"


def checked_purpose(purpose: str | None) -> str:
    """Return a purpose that a file may be given.

    Raises:
        InvalidRequest: it is none.
    """
    if purpose is None:
        raise missing("purpose")
    if purpose == "evals":
        raise unsupported("purpose", "this server has no evals.")
    one_of(GIVEN)("purpose", purpose)
    return purpose


def checked_filename(filename: str, param: str) -> str:
    """Return a name that a file may have; `param` is the field that it came in.

    Raises:
        InvalidRequest: it is too long, or holds a control character.
    """
    with _named(param):
        attributes.metadata({"filename": filename})
    return filename


def checked_media_type(kind: str | None, param: str) -> str | None:
    """Return a media type, None for none; `param` is the field that it came in.

    Raises:
        InvalidRequest: it is malformed.
    """
    with _named(param):
        return None if kind is None else content.media_type(kind, "", is_text=False)


@contextmanager
def _named(param: str) -> Generator[None]:
    # A file is an object, whose fields have other names than what a client of this API sent.
    try:
        yield
    except InvalidInput as error:
        raise invalid(param, f"{error.message.partition(': ')[2]}.") from error


def lifetime(given: object, place: str = _EXPIRES) -> int | None:
    """Return after how many seconds from its making on a file expires, None for never.

    Raises:
        InvalidRequest: names what does not fit.
    """
    if given is None:
        return None
    after = as_object(place, given)
    for name in after:
        if name not in {"anchor", "seconds"}:
            raise _unknown(f"{place}.{name[:80]}")
    one_of(("created_at",))(f"{place}.anchor", required(after, "anchor", f"{place}.anchor"))
    seconds = required(after, "seconds", f"{place}.seconds")
    integer(_SHORTEST, _LONGEST)(f"{place}.seconds", seconds)
    return seconds


def lifetime_of_form(fields: Mapping[str, str]) -> int | None:
    """Return the same of a form, whose fields are named `expires_after[anchor]`.

    Raises:
        InvalidRequest: names what does not fit.
    """
    given: dict[str, Any] = {}
    for name, value in fields.items():
        if not name.startswith(_EXPIRES):
            continue
        inner = name.removeprefix(_EXPIRES)
        if not (inner.startswith("[") and inner.endswith("]")):
            raise _unknown(name[:80])
        given[inner[1:-1]] = value
    seconds = given.get("seconds", "")
    if seconds.isascii() and seconds.isdecimal() and len(seconds) < 10:
        given["seconds"] = int(seconds)
    return lifetime(given or None)


def file_object(record: FileRecord) -> dict[str, Any]:
    """Give the file object; `expires_at` is there only if it expires."""
    shown = {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at,
        "filename": record.filename,
        "purpose": record.purpose if record.purpose in SHOWN else "user_data",
        "status": "processed",
    }
    if record.expires_at is not None:
        shown["expires_at"] = record.expires_at
    return shown


def _unknown(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Unknown parameter: '{param}'.", param=param, wire_code="unknown_parameter"
    )
