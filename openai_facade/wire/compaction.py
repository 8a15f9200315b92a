"""The body of `POST /v1/responses/compact`."""

from __future__ import annotations

from typing import Any

from openai_facade.wire.faults import unsupported
from openai_facade.wire.fields import as_string, required
from openai_facade.wire.responses import check_context


def check_compaction(body: dict[str, Any]) -> str:
    """Check a decoded body and give the model id that it asks for.

    Raises:
        InvalidRequest: names the field, what is wrong and what would fit.
    """
    model = as_string("model", required(body, "model"))
    for name in ("conversation", "tools"):
        if body.get(name):
            raise unsupported(name, "give input, or previous_response_id.")
    if body.get("image") is not None:
        raise unsupported("image", "images are read as they are.")
    check_context(body)
    return model
