"""Bodies and objects of `/v1/vector_stores`, but for the files in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, cast

from mcp_server.services.vector_stores import FileCounts, StoreChange, StoreRecord, StoreTerms
from openai_facade.wire.faults import InvalidRequest, invalid
from openai_facade.wire.fields import as_object, as_string, integer, one_of, required
from openai_facade.wire.metadata import check_metadata

LONGEST_NAME = 512
LONGEST_DESCRIPTION = 4096
MOST_DAYS = 365  # OpenAI's document 2.3.0
ANCHOR = "last_active_at"

_TERMS = ("name", "description", "metadata", "expires_after")
NEW = (*_TERMS, "file_ids", "chunking_strategy")


def only(body: Mapping[str, Any], known: Collection[str], place: str = "") -> None:
    """Refuse a field that is not known: it would be taken for something that was done.

    Raises:
        InvalidRequest: names it.
    """
    for name in body:
        if name not in known:
            raise InvalidRequest(
                f"Unknown parameter: '{place}{name[:80]}'.",
                param=f"{place}{name[:80]}",
                wire_code="unknown_parameter",
            )


def store_terms(body: Mapping[str, Any]) -> StoreTerms:
    """Read what is said of a new store; which files go into it is read by `wire.vector_files`.

    Raises:
        InvalidRequest: names what does not fit.
    """
    only(body, NEW)
    return StoreTerms(
        label=_text(body, "name", LONGEST_NAME),
        description=_text(body, "description", LONGEST_DESCRIPTION),
        metadata=_metadata(body),
        expires_days=_expires_days(body),
    )


def store_change(body: Mapping[str, Any]) -> StoreChange:
    """Read what is to be changed of a store; a field of null is emptied, but the name stays.

    Raises:
        InvalidRequest: names what does not fit.
    """
    only(body, _TERMS)
    values: dict[str, Any] = {}
    if body.get("name") is not None:
        values["label"] = _text(body, "name", LONGEST_NAME)
    if "description" in body:
        values["description"] = _text(body, "description", LONGEST_DESCRIPTION)
    if "metadata" in body:
        values["metadata"] = _metadata(body)
    if "expires_after" in body:
        values["expires_days"] = _expires_days(body)
    return StoreChange(values)


def store_object(store: StoreRecord) -> dict[str, Any]:
    """Give the vector store object; times are in Unix seconds."""
    days = store.expires_days
    status = "in_progress" if store.counts.in_progress else "completed"
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": unix(store.created_at),
        "name": store.label,
        "description": store.description,
        "usage_bytes": store.usage_bytes,
        "file_counts": counts_object(store.counts),
        "status": "expired" if store.expired else status,
        "expires_after": None if days is None else {"anchor": ANCHOR, "days": days},
        "expires_at": None if store.expires_at is None else unix(store.expires_at),
        "last_active_at": unix(store.last_active_at),
        "metadata": store.metadata,
    }


def counts_object(counts: FileCounts) -> dict[str, int]:
    return {
        "in_progress": counts.in_progress,
        "completed": counts.completed,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "total": counts.total,
    }


def unix(moment: datetime) -> int:
    return int(moment.timestamp())


def _text(body: Mapping[str, Any], name: str, longest: int) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    text = as_string(name, value)
    if len(text) > longest:
        raise invalid(name, f"expected at most {longest} characters, but got {len(text)}.")
    if "\0" in text:
        raise invalid(name, "it holds U+0000, which cannot be stored.")
    return text


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    given = body.get("metadata")
    if given is None:
        return {}
    check_metadata("metadata", given)
    return cast("dict[str, str]", given)


def _expires_days(body: Mapping[str, Any]) -> int | None:
    given = body.get("expires_after")
    if given is None:
        return None
    after = as_object("expires_after", given)
    only(after, ("anchor", "days"), "expires_after.")
    one_of((ANCHOR,))("expires_after.anchor", required(after, "anchor", "expires_after.anchor"))
    days = required(after, "days", "expires_after.days")
    integer(1, MOST_DAYS)("expires_after.days", days)
    return days
