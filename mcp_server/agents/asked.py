"""What runs ask, and what counts as an answer: the schemas of questions, approvals, and of declining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mcp_server.errors import InvalidInput
from mcp_server.storage.sql.schema import encode_json

MOST_SCHEMA_BYTES = 65_536

APPROVAL: dict[str, Any] = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
    "additionalProperties": False,
}

# What a step that asks gets instead of an answer; `is_declined` knows it.
DECLINED = {"isthmus/declined": True}


_ELSEWHERE = "isthmus/elsewhere"


def elsewhere(decisions: Mapping[str, bool]) -> dict[str, Any]:
    """Return the answer of a run that ends where it is: what it asked was decided in another one."""
    return {_ELSEWHERE: dict(decisions)}


def decided_elsewhere(answer: Any) -> dict[str, bool] | None:
    """Return what was decided in another run, None if the answer is one."""
    return cast("dict[str, Any]", answer).get(_ELSEWHERE) if isinstance(answer, dict) else None


def is_declined(answer: Any) -> bool:
    """Tell whether nobody wanted to answer."""
    return isinstance(answer, dict) and "isthmus/declined" in cast("dict[str, Any]", answer)


def every_part(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the JSON schema of an answer to all the parts of a question at once."""
    properties: dict[str, Any] = {name: part["schema"] or {} for name, part in parts.items()}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def answer_schema(request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the JSON schema of a request's answer, None if any value will do."""
    return APPROVAL if request["kind"] == "approval" else request.get("schema")


def check_schema(schema: dict[str, Any]) -> None:
    """Hold a question's schema against its metaschema, before anyone is asked.

    Raises:
        InvalidInput: it is no JSON schema.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if len(encode_json(schema)) > MOST_SCHEMA_BYTES:
        raise InvalidInput(
            f"schema: it is longer than the {MOST_SCHEMA_BYTES} bytes allowed", param="schema"
        )
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidInput(f"schema: {error.message[:500]}", param="schema") from error
