"""The input file of a batch: its lines, found and checked as its bytes come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any, NamedTuple, cast

import orjson

from mcp_server.services.batches import BatchError, NewLine
from openai_facade.wire.faults import json_type

# OpenAI's documentation of batches, in 2026.
MOST_LINES = 50_000
MOST_BYTES = 200_000_000
LONGEST_ID = 512
_NEED_NO_MODEL = frozenset({"/v1/moderations"})

_MARK = b"\xef\xbb\xbf"  # some editors begin a text in UTF-8 with it


class Line(NamedTuple):
    """A line, numbered from 1, and where it is; `raw` is None if it is too long."""

    number: int
    first_byte: int
    end_byte: int
    raw: bytes | None


async def lines_of(pieces: AsyncIterable[bytes], longest: int) -> AsyncGenerator[Line]:
    """Yield the lines that are not blank; of one that is longer than `longest` no more is held."""
    held, number, first, at = bytearray(), 1, 0, 0
    async for piece in pieces:
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            held += piece[start : min(end, start + longest + 1)]
            line = _line(number, first, at + end, bytes(held), longest)
            if line is not None:
                yield line
            held.clear()
            start = end + 1
            number, first = number + 1, at + start
        held += piece[start : start + max(0, longest + 1 - len(held))]
        at += len(piece)
    line = _line(number, first, at, bytes(held), longest)
    if line is not None:
        yield line


def _line(number: int, first: int, end: int, held: bytes, longest: int) -> Line | None:
    if number == 1 and held.startswith(_MARK):
        held, first = held[len(_MARK) :], first + len(_MARK)
    if not held.strip():
        return None
    return Line(number, first, end, None if end - first > longest else held)


def checked_line(line: Line, endpoint: str, longest: int) -> NewLine | BatchError:
    """Check one line: what it must say, and nothing of what its request asks for."""
    if line.raw is None:
        message = f"This line has over {longest} bytes, the most that one request may have here."
        return fault("request_too_large", message, line.number)
    try:
        given: object = orjson.loads(line.raw)
    except orjson.JSONDecodeError:
        return fault("invalid_json_line", "This line is not parseable as valid JSON.", line.number)
    if not isinstance(given, dict):
        message = f"Expected an object, but got {json_type(given)} instead."
        return fault("invalid_json_line", message, line.number)
    wrong = _wrong(cast("dict[str, Any]", given), endpoint)
    if wrong is not None:
        code, message, param = wrong
        return fault(code, message, line.number, param)
    return NewLine(line.number, given["custom_id"], line.first_byte, line.end_byte)


def _wrong(given: dict[str, Any], endpoint: str) -> tuple[str, str, str] | None:
    for name in ("custom_id", "method", "url", "body"):
        if given.get(name) is None:
            return "missing_required_parameter", f"Missing required parameter: '{name}'.", name
    custom = given["custom_id"]
    if not isinstance(custom, str) or not 0 < len(custom) <= LONGEST_ID or "\0" in custom:
        message = f"Expected a text of 1 to {LONGEST_ID} characters without U+0000."
        return "invalid_custom_id", message, "custom_id"
    if given["method"] != "POST":
        return "invalid_method", "Expected the method 'POST'.", "method"
    if given["url"] != endpoint:
        message = f"Expected the endpoint of the batch, '{endpoint}'."
        return "mismatched_endpoint", message, "url"
    body = given["body"]
    if not isinstance(body, dict):
        return "invalid_type", f"Expected an object, but got {json_type(body)} instead.", "body"
    model = cast("dict[str, Any]", body).get("model")
    if not isinstance(model, str) and not (model is None and endpoint in _NEED_NO_MODEL):
        return "missing_required_parameter", "The body names no model.", "body.model"
    return None


def fault(code: str, message: str, line: int | None = None, param: str | None = None) -> BatchError:
    """Tell what is wrong with the input, as OpenAI does."""
    return {"code": code, "message": message, "param": param, "line": line}
