"""What is wrong with a request, in OpenAI's words and with OpenAI's codes."""

from __future__ import annotations

from typing import Any

from mcp_server.errors import InvalidInput


class InvalidRequest(InvalidInput):
    """A request that does not fit the wire format: `wire_code` is OpenAI's code for the reason.

    Source of the codes: answers of OpenAI's API.
    """

    def __init__(
        self, message: str, *, param: str | None, wire_code: str | None, status: int = 400
    ) -> None:
        super().__init__(message, param=param)
        self.wire_code = wire_code
        self.status = status


def missing(param: str) -> InvalidRequest:
    """A required parameter is not there."""
    return InvalidRequest(
        f"Missing required parameter: '{param}'.",
        param=param,
        wire_code="missing_required_parameter",
    )


def wrong_type(param: str, expected: str, value: object) -> InvalidRequest:
    """A parameter has another JSON type; `expected` reads like "an array of objects"."""
    return InvalidRequest(
        f"Invalid type for '{param}': expected {expected}, but got {json_type(value)} instead.",
        param=param,
        wire_code="invalid_type",
    )


def invalid(param: str, mend: str) -> InvalidRequest:
    """A parameter has the right type but a value that cannot be; `mend` says what can."""
    return InvalidRequest(
        f"Invalid value for '{param}': {mend}", param=param, wire_code="invalid_value"
    )


def unsupported(param: str, reason: str) -> InvalidRequest:
    """OpenAI knows this value, this server does not."""
    return InvalidRequest(
        f"Unsupported value for '{param}': {reason}", param=param, wire_code="unsupported_value"
    )


def json_type(value: Any) -> str:
    """Name the JSON type of a decoded value, with its article."""
    if value is None:
        return "null"
    for kind, name in _TYPES:
        if isinstance(value, kind):
            return name
    return f"a {type(value).__name__}"


# bool before int: in Python a bool is an int.
_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a decimal"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)
