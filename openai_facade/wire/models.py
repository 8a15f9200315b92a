"""The model objects of `GET /v1/models`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def model_object(model_id: str, *, created: int, owned_by: str) -> dict[str, Any]:
    """Build one model; `created` is in Unix seconds."""
    return {"id": model_id, "object": "model", "created": created, "owned_by": owned_by}


def model_list(models: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Build the list; OpenAI does not page it."""
    return {"object": "list", "data": list(models)}
