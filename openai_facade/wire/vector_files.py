"""Bodies and objects of files in vector stores, and of batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from starlette.datastructures import QueryParams

from mcp_server.services.vector_stores import (
    BatchRecord,
    Chunking,
    FileRecord,
    GivenFile,
    Paging,
)
from openai_facade.translate.response_search import attributes_of
from openai_facade.wire.faults import InvalidRequest, invalid, missing, wrong_type
from openai_facade.wire.fields import as_array, as_object, as_string, integer, one_of, required
from openai_facade.wire.pages import page_arguments
from openai_facade.wire.vector_stores import counts_object, only, unix

# OpenAI's document 2.3.0.
MOST_OF_A_STORE, MOST_OF_A_BATCH = 500, 2000
LEAST_TOKENS, MOST_TOKENS = 100, 4096
MOST_ATTRIBUTES, LONGEST_KEY, LONGEST_TEXT = 16, 64, 512

STATUSES = ("in_progress", "completed", "failed", "cancelled")
_FILE = ("file_id", "attributes", "chunking_strategy")


def given_file(body: Mapping[str, Any], place: str = "") -> GivenFile:
    """Read a file that is to go into a store; `place` is the path before its fields.

    Raises:
        InvalidRequest: names what does not fit.
    """
    only(body, _FILE, place)
    file = as_string(f"{place}file_id", required(body, "file_id", f"{place}file_id"))
    attributes = checked_attributes(body.get("attributes"), f"{place}attributes")
    return GivenFile(
        file, attributes, _chunking(body.get("chunking_strategy"), f"{place}chunking_strategy")
    )


def files_of_store(body: Mapping[str, Any]) -> list[GivenFile]:
    """Read which files go into a new store.

    Raises:
        InvalidRequest: names what does not fit.
    """
    if body.get("file_ids") is None:
        return []
    chunking = _chunking(body.get("chunking_strategy"), "chunking_strategy")
    ids = _ids(body["file_ids"], 0, MOST_OF_A_STORE)
    return [GivenFile(file, {}, chunking) for file in ids]


def files_of_batch(body: Mapping[str, Any]) -> list[GivenFile]:
    """Read the files of a batch: `file_ids` with what holds for all of them, or `files`.

    Raises:
        InvalidRequest: names what does not fit.
    """
    only(body, ("file_ids", "files", "attributes", "chunking_strategy"))
    ids, files = body.get("file_ids"), body.get("files")
    if (ids is None) == (files is None):
        if ids is None:
            raise missing("file_ids")
        raise invalid("files", "give either 'file_ids' or 'files', not both.")
    if ids is not None:
        attributes = checked_attributes(body.get("attributes"), "attributes")
        chunking = _chunking(body.get("chunking_strategy"), "chunking_strategy")
        return [GivenFile(file, attributes, chunking) for file in _ids(ids, 1, MOST_OF_A_BATCH)]
    for name in ("attributes", "chunking_strategy"):
        if body.get(name) is not None:
            raise InvalidRequest(
                f"Unsupported parameter: '{name}': with 'files' it belongs to each file.",
                param=name,
                wire_code="unsupported_parameter",
            )
    listed = _bounded("files", files, 1, MOST_OF_A_BATCH)
    return [
        given_file(as_object(f"files[{index}]", each), f"files[{index}].")
        for index, each in enumerate(listed)
    ]


def new_attributes(body: Mapping[str, Any]) -> dict[str, Any]:
    """Read the attributes that a file is to have; null means none.

    Raises:
        InvalidRequest: they are not there, or do not fit.
    """
    only(body, ("attributes",))
    if "attributes" not in body:
        raise missing("attributes")
    return checked_attributes(body["attributes"], "attributes")


def checked_attributes(value: object, place: str) -> dict[str, Any]:
    """Give attributes: up to 16 texts, numbers and booleans.

    Raises:
        InvalidRequest: names the one that does not fit.
    """
    if value is None:
        return {}
    fields = as_object(place, value)
    if len(fields) > MOST_ATTRIBUTES:
        raise invalid(place, f"expected at most {MOST_ATTRIBUTES} keys, but got {len(fields)}.")
    for name, item in fields.items():
        here = f"{place}.{name[:80]}"
        if not isinstance(item, str | int | float):
            raise wrong_type(here, "a string, a number or a boolean", item)
        if len(name) > LONGEST_KEY or (isinstance(item, str) and len(item) > LONGEST_TEXT):
            raise invalid(
                here, f"keys have at most {LONGEST_KEY} and texts {LONGEST_TEXT} characters."
            )
    return fields


def listing(query: QueryParams) -> tuple[Paging, str | None]:
    """Read which part of a list of files is asked for, and of which status.

    Raises:
        InvalidRequest: names the argument.
    """
    status = query.get("filter") or None
    if status is not None:
        one_of(STATUSES)("filter", status)
    return paging(query), status


def paging(query: QueryParams) -> Paging:
    """Read which part of a list is asked for.

    Raises:
        InvalidRequest: names the argument.
    """
    page = page_arguments(query)
    return Paging(page.limit, page.order == "desc", page.after, page.before)


def file_object(file: FileRecord) -> dict[str, Any]:
    """Give the object of a file in a store."""
    code, message = file.error or (None, None)
    return {
        "id": file.file,
        "object": "vector_store.file",
        "usage_bytes": file.usage_bytes,
        "created_at": unix(file.created_at),
        "vector_store_id": file.store,
        "status": file.status,
        "last_error": None if code is None else {"code": code, "message": message},
        "chunking_strategy": _chunking_object(file.chunking),
        "attributes": attributes_of(file.attributes),
    }


def batch_object(batch: BatchRecord) -> dict[str, Any]:
    """Give the object of a batch; it has failed only if each of its files did."""
    counts = batch.counts
    if counts.in_progress:
        status = "in_progress"
    elif batch.cancelled:
        status = "cancelled"
    else:
        status = "failed" if counts.total and counts.failed == counts.total else "completed"
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": unix(batch.created_at),
        "vector_store_id": batch.store,
        "status": status,
        "file_counts": counts_object(counts),
    }


def content_object(text: str | None) -> dict[str, Any]:
    """Give what was read of a file, as the one page that it is."""
    return {
        "object": "vector_store.file_content.page",
        "data": [] if text is None else [{"type": "text", "text": text}],
        "has_more": False,
        "next_page": None,
    }


def _ids(value: object, least: int, most: int) -> list[str]:
    listed = _bounded("file_ids", value, least, most)
    return [as_string(f"file_ids[{index}]", each) for index, each in enumerate(listed)]


def _bounded(place: str, value: object, least: int, most: int) -> Sequence[Any]:
    listed = as_array(place, value, "strings")
    if not least <= len(listed) <= most:
        raise invalid(place, f"give {least} to {most}, but not {len(listed)}.")
    return listed


def _chunking(value: object, place: str) -> Chunking | None:
    if value is None:
        return None
    strategy = as_object(place, value)
    kind = required(strategy, "type", f"{place}.type")
    one_of(("auto", "static"))(f"{place}.type", kind)
    if kind == "auto":
        only(strategy, ("type",), f"{place}.")
        return None
    only(strategy, ("type", "static"), f"{place}.")
    here = f"{place}.static"
    static = as_object(here, required(strategy, "static", here))
    only(static, ("max_chunk_size_tokens", "chunk_overlap_tokens"), f"{here}.")
    size, overlap = f"{here}.max_chunk_size_tokens", f"{here}.chunk_overlap_tokens"
    most = required(static, "max_chunk_size_tokens", size)
    integer(LEAST_TOKENS, MOST_TOKENS)(size, most)
    shared = required(static, "chunk_overlap_tokens", overlap)
    integer(0, cast("int", most) // 2)(overlap, shared)
    return Chunking(most, shared)


def _chunking_object(chunking: Chunking | None) -> dict[str, Any]:
    if chunking is None:
        return {"type": "other"}
    return {
        "type": "static",
        "static": {
            "max_chunk_size_tokens": chunking.max_tokens,
            "chunk_overlap_tokens": chunking.overlap_tokens,
        },
    }
