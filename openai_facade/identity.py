"""What every answer under /v1 says of itself: its request id, its time and the version of the API."""

from __future__ import annotations

import secrets
import time
from collections.abc import MutableMapping
from typing import Any

from mcp_server.llm.trail import current_trail
from openai_facade.allowance import allowance_headers

VERSION = b"2020-10-01"  # the only value that OpenAI's API ever sent

_REQUEST = "openai_facade.request"


def request_id(scope: MutableMapping[str, Any]) -> str:
    """Give the id of this request, the same one however often it is asked."""
    return _mark(scope)[0]


def response_headers(scope: MutableMapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """Give x-request-id, openai-processing-ms (since this module first saw the request) and openai-version.

    Where a model of several upstreams answered, or one whose answers are kept, the headers say so.
    """
    name, begun = _mark(scope)
    millis = (time.perf_counter_ns() - begun) // 1_000_000
    return [
        (b"x-request-id", name.encode()),
        (b"openai-processing-ms", b"%d" % millis),
        (b"openai-version", VERSION),
        *allowance_headers(),
        *_trail_headers(),
    ]


def _trail_headers() -> list[tuple[bytes, bytes]]:
    trail = current_trail()
    if trail is None:
        return []
    told = ((b"x-isthmus-upstream", trail.upstream), (b"x-isthmus-cache", trail.cache))
    return [(name, value.encode("latin-1", "replace")) for name, value in told if value]


def _mark(scope: MutableMapping[str, Any]) -> tuple[str, int]:
    mark = scope.get(_REQUEST)
    if mark is None:
        mark = scope[_REQUEST] = (f"req_{secrets.token_hex(16)}", time.perf_counter_ns())
    return mark
