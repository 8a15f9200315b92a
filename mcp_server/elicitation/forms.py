"""A run's open request as the forms that an MCP client shows its user, and their answers read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from mcp_server.agents.asked import answer_schema
from mcp_server.errors import InvalidInput
from mcp_server.sendable import check_arguments
from mcp_server.services.run_results import RunPreview, RunRequest

# The one field of a form that stands for a value which is no object.
FIELD = "answer"
# How much of a preview stands in a form; run_get has more of it.
MOST_PREVIEW = 2_000

# What a field of a form may be, https://modelcontextprotocol.io/specification/2026-07-28/client/elicitation:
# the keywords of each type; a form knows no nesting and no other keyword.
_TEXTS = {"title", "description", "default", "type"}
_KEYWORDS: dict[str, set[str]] = {
    "string": _TEXTS | {"minLength", "maxLength", "format", "enum", "enumNames", "oneOf"},
    "number": _TEXTS | {"minimum", "maximum"},
    "integer": _TEXTS | {"minimum", "maximum"},
    "boolean": _TEXTS,
    "array": _TEXTS | {"minItems", "maxItems", "items"},
}
_REASONS = {"decline": "the user declined", "cancel": "the user closed the form"}
_FORMATS = {"email", "uri", "date", "date-time"}


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that a run waits for: `part` of its request, or all of it; `key` is the run's only one."""

    key: str
    request: str
    part: str | None
    kind: str
    message: str
    schema: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Response:
    """What a client said to a question: the answer, or that there will be none."""

    answer: Any
    declined: bool = False


def questions(request: RunRequest) -> list[Question]:
    """Return what is still open in a run's request: all of it, or the parts that nobody has answered."""
    parts = request.get("parts")
    name, kind = request["id"], request["kind"]
    if not parts:
        schema = answer_schema(cast("dict[str, Any]", request))
        message = f"{request['message']}{_shown(request.get('preview'))}"
        return [Question(name, name, None, kind, message, schema)]
    return [
        Question(f"{name}/{part}", name, part, kind, item["message"], item["schema"])
        for part, item in parts.items()
        if not item["answered"]
    ]


def _shown(preview: RunPreview | None) -> str:
    """Return what is added to a message: what the call would do, as far as it fits a form."""
    if preview is None:
        return ""
    if "unavailable" in preview:
        return f"\n\nWhat it would do cannot be shown: {preview['unavailable'][:MOST_PREVIEW]}"
    text = json.dumps(preview.get("result"), ensure_ascii=False)
    text = text if len(text) <= MOST_PREVIEW else f"{text[:MOST_PREVIEW]} …"
    if preview.get("shows") == "change":
        return f"\n\nIt would do this: {text}"
    return "\n\nNothing is there now." if text == "null" else f"\n\nThere is now: {text}"


def elicitation(question: Question, fault: str | None = None) -> dict[str, Any]:
    """Return the request that a client fulfils: an `elicitation/create` in form mode.

    `fault` is what was wrong with the answer before, if it is asked again.
    """
    form, _ = _form(question.schema)
    message = question.message if fault is None else f"{question.message}\n\n{fault}"
    params = {"mode": "form", "message": message, "requestedSchema": form}
    return {"method": "elicitation/create", "params": params}


def read_response(question: Question, response: Any) -> Response:
    """Read an answer; whether it fits the question's schema is decided where answers are taken.

    Whoever declines an approval, or closes its form, does not approve.

    Raises:
        InvalidInput: it is no elicitation result, or holds what could never be sent back.
    """
    where = f"inputResponses.{question.key}"
    given = cast("dict[str, Any]", response) if isinstance(response, dict) else {}
    action = given.get("action")
    if action not in ("accept", "decline", "cancel"):
        raise InvalidInput(
            f'{where}: send {{"action": "accept", "content": {{…}}}}, or action decline or cancel',
            param=where,
        )
    if action != "accept" and question.kind == "approval":
        return Response({"approved": False, "reason": _REASONS[action]})
    if action != "accept":
        return Response(None, declined=True)
    content = given.get("content")
    if not isinstance(content, dict):
        raise InvalidInput(f"{where}.content: an accepted form has an object here", param=where)
    value = _value(question, cast("dict[str, Any]", content), where)
    check_arguments({where: value})
    return Response(value)


def _value(question: Question, content: dict[str, Any], where: str) -> Any:
    _, reads = _form(question.schema)
    if reads == "object":
        return content
    if FIELD not in content:
        raise InvalidInput(f"{where}.content.{FIELD}: this field is required", param=where)
    value = content[FIELD]
    if reads == "value":
        return value
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{where}.content.{FIELD}: write it as JSON", param=where) from error


def _form(
    schema: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], Literal["object", "value", "json"]]:
    """Return a form for a JSON schema, and how the answer lies in its content.

    A form is flat. A schema that is not becomes one field in which the user writes JSON.
    """
    if schema is None:
        return _single({"type": "string"}), "value"
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        properties = cast("dict[str, Any]", schema["properties"])
        fields = {name: _field(item) for name, item in properties.items()}
        if fields and all(field is not None for field in fields.values()):
            required = [name for name in schema.get("required", ()) if name in fields]
            form: dict[str, Any] = {"type": "object", "properties": fields}
            return form | ({"required": required} if required else {}), "object"
    field = _field(schema)
    if field is not None:
        return _single(field), "value"
    text = json.dumps(schema, ensure_ascii=False)
    return _single({"type": "string", "description": f"JSON that fits {text}"}), "json"


def _single(field: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {FIELD: field}, "required": [FIELD]}


def _field(schema: Any) -> dict[str, Any] | None:
    """Return a schema as a form's field, without what a form cannot say; None if it is no such thing."""
    if not isinstance(schema, dict):
        return None
    given = cast("dict[str, Any]", schema)
    kind = given.get("type", "string" if "enum" in given else None)
    if not isinstance(kind, str) or kind not in _KEYWORDS:
        return None
    field = {name: value for name, value in given.items() if name in _KEYWORDS[kind]}
    if not _is_choice(field.get("enum", []), str) or not _is_choice(field.get("oneOf", []), dict):
        return None
    if kind == "array" and not _is_choice(_choices(field.get("items")), (str, dict), least=1):
        return None
    if field.get("format") not in _FORMATS:
        field.pop("format", None)
    return field | {"type": kind}


def _choices(items: Any) -> Any:
    """Return what an array's items are chosen from."""
    if not isinstance(items, dict):
        return None
    known = cast("dict[str, Any]", items)
    return known.get("enum", known.get("anyOf"))


def _is_choice(values: Any, kinds: type | tuple[type, ...], *, least: int = 0) -> bool:
    """Tell whether it is a list of titles or of `{const, title}`."""
    if not isinstance(values, list):
        return False
    items = cast("list[Any]", values)
    return len(items) >= least and all(
        isinstance(item, kinds) and (not isinstance(item, dict) or "const" in item)
        for item in items
    )
