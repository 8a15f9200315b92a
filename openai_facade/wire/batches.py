"""Bodies and objects of `/v1/batches`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mcp_server.services.batches import BatchRecord, BatchTerms
from openai_facade.wire.faults import InvalidRequest
from openai_facade.wire.fields import as_string, one_of, required
from openai_facade.wire.files import lifetime
from openai_facade.wire.metadata import check_metadata

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
)
_WINDOW = "24h"
_FIELDS = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")


def batch_terms(body: Mapping[str, Any]) -> BatchTerms:
    """Read what is asked of a new batch.

    Raises:
        InvalidRequest: names what does not fit.
    """
    for name in body:
        if name not in _FIELDS:
            raise InvalidRequest(
                f"Unknown parameter: '{name[:80]}'.",
                param=name[:80],
                wire_code="unknown_parameter",
            )
    file = as_string("input_file_id", required(body, "input_file_id"))
    endpoint = required(body, "endpoint")
    one_of(ENDPOINTS)("endpoint", endpoint)
    one_of((_WINDOW,))("completion_window", required(body, "completion_window"))
    metadata = body.get("metadata")
    if metadata is not None:
        check_metadata("metadata", metadata)
    expires = lifetime(body.get("output_expires_after"), "output_expires_after")
    return BatchTerms(input_file=file, endpoint=endpoint, metadata=metadata, output_seconds=expires)


def batch_object(batch: BatchRecord) -> dict[str, Any]:
    """Give the batch object; what has not happened, and files that there are not, are left out."""
    told: dict[str, Any] = {
        "in_progress_at": _unix(batch.in_progress_at),
        "finalizing_at": _unix(batch.finalizing_at),
        "cancelling_at": _unix(batch.cancelling_at),
    }
    if batch.ended_at is not None:
        told[f"{batch.status}_at"] = _unix(batch.ended_at)
    if batch.ended_at is not None and batch.filed:
        told["output_file_id"] = batch.output_file if batch.completed else None
        told["error_file_id"] = batch.error_file if batch.failed else None
    if batch.errors:
        told["errors"] = {"object": "list", "data": batch.errors}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "input_file_id": batch.input_file,
        "completion_window": _WINDOW,
        "status": batch.status,
        "created_at": _unix(batch.created_at),
        "expires_at": _unix(batch.due_at),
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "metadata": batch.metadata,
        **{name: value for name, value in told.items() if value is not None},
    }


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
