"""Whether an answer fits the question that a run asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from mcp_server.errors import InvalidInput
from mcp_server.storage.sql.schema import encode_json

MOST_ANSWER_BYTES = 262_144
MOST_SCHEMA_BYTES = 65_536

APPROVAL: dict[str, Any] = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
    "additionalProperties": False,
}

# What a step that asks gets instead of an answer; `is_declined` knows it.
DECLINED = {"isthmus/declined": True}


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


def check_part(request: dict[str, Any], part: str, answer: Any) -> None:
    """Hold an answer against the schema of one part of a request.

    Raises:
        InvalidInput: the request has no such part, or the answer does not fit.
    """
    asked = request.get("parts", {}).get(part)
    if asked is None:
        raise InvalidInput(f"part: the question has no part {part[:80]!r}", param="part")
    check_answer({"kind": "question", "schema": asked["schema"]}, answer)


def answer_schema(request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the JSON schema of a request's answer, None if any value will do."""
    return APPROVAL if request["kind"] == "approval" else request.get("schema")


def check_answer(request: dict[str, Any], answer: Any) -> None:
    """Hold an answer against the schema of its request, JSON Schema 2020-12; no reference leaves it.

    Raises:
        InvalidInput: the answer does not fit, or is too large; names the place in it.
    """
    if len(encode_json(answer)) > MOST_ANSWER_BYTES:
        raise InvalidInput(
            f"answer: it is longer than the {MOST_ANSWER_BYTES} bytes allowed; store it as an object "
            "and answer with its key",
            param="answer",
        )
    schema = answer_schema(request)
    if schema is None:
        return
    # Only runs that ask need it, and it takes a while to load.
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # A registry of its own: the default one would fetch a reference over the network.
    registry = Registry[Any]()
    validator: Any = Draft202012Validator(schema, registry=registry)
    try:
        error = next(validator.iter_errors(answer), None)
    except (Unresolvable, RecursionError, re.error) as fault:
        raise InvalidInput(
            f"answer: the question's schema cannot be applied ({fault}); its tool must be mended",
            param="answer",
        ) from fault
    if error is not None:
        where = "".join(f"[{part!r}]" for part in error.absolute_path)
        raise InvalidInput(f"answer{where}: {error.message[:500]}", param="answer")


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
