"""Checks one HTTP exchange under /v1 against OpenAI's own document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import jsonschema_rs

from openai_facade.specification.support import openai_document
from tests.traffic.extensions import DEVIATIONS, EXTENSIONS
from tests.traffic.recording import Exchange

DOCUMENT = openai_document()
BASE = "/v1"
URN = "urn:openai"
STREAMS = {
    "/chat/completions": "CreateChatCompletionStreamResponse",
    "/completions": "CreateCompletionResponse",
    "/responses": "ResponseStreamEvent",
    "/responses/{response_id}": "ResponseStreamEvent",
}
LAST_OF_A_RESPONSE = {"response.completed", "response.failed", "response.incomplete", "error"}


@dataclass(slots=True)
class Finding:
    """What came of a check: `events` is how many of a stream were checked, `removed` names what was ours."""

    faults: list[str]
    events: int
    removed: list[str]


def check(exchange: Exchange) -> Finding:
    """Compare a successful exchange with the document, or the error that a refused one was told."""
    finding = Finding([], 0, [])
    if exchange.status >= 400:
        finding.faults = list(_error_faults(exchange.answer)) if exchange.answer else []
        return finding
    template = path_template(exchange.method, exchange.path)
    if template is None:
        finding.faults = [f"{exchange.method} {exchange.path} is not in the document"]
        return finding
    where = f"/paths/{_escaped(template)}/{exchange.method.lower()}"
    if exchange.request and "json" in exchange.request_type:
        body = _without_extensions(template, json.loads(exchange.request), finding)
        schema = f"{where}/requestBody/content/application~1json/schema"
        finding.faults += [f"request {fault}" for fault in faults(schema, body)]
    if "event-stream" in exchange.answer_type:
        finding.faults += list(_stream_faults(template, exchange, finding))
    elif "json" in exchange.answer_type:
        schema = _answer_schema(template, exchange)
        if schema is not None:
            answer = _without_extensions(template, json.loads(exchange.answer), finding)
            finding.faults += [f"answer {fault}" for fault in faults(where + schema, answer)]
    return finding


def faults(pointer: str, instance: Any) -> Iterator[str]:
    """Tell where an instance does not fit the schema at a JSON pointer of the document."""
    validator = _validator(pointer)
    if validator is None or validator.is_valid(instance):
        return
    for error in validator.iter_errors(instance):
        at, message = _deepest(error)
        fault = f"{'/'.join(map(str, at)) or '(root)'}: {message}"
        if not any(re.search(known, fault) for known in DEVIATIONS):
            yield fault[:400]  # what is quoted may be very long


def path_template(method: str, path: str) -> str | None:
    """Return the document's form of a path, such as /responses/{response_id}."""
    path = path.partition("?")[0].removeprefix(BASE)
    for pattern, template in _patterns():
        if pattern.fullmatch(path) and method.lower() in DOCUMENT["paths"][template]:
            return template
    return None


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    templates = sorted(DOCUMENT["paths"], key=lambda template: template.count("{"))
    return [
        (re.compile(re.sub(r"\\\{(\w+)\\\}", _segment, re.escape(template))), template)
        for template in templates
    ]


def _segment(match: re.Match[str]) -> str:
    return ".+" if match[1] == "model" else "[^/]+"  # an extension: ids of models may hold slashes


@cache
def _registry() -> jsonschema_rs.Registry:
    return jsonschema_rs.Registry([(URN, DOCUMENT)], draft=jsonschema_rs.Draft202012)


@cache
def _validator(pointer: str) -> jsonschema_rs.Draft202012Validator | None:
    node: Any = DOCUMENT
    for part in pointer.split("/")[1:]:
        node = node.get(part.replace("~1", "/").replace("~0", "~"), {})
    if not node:
        return None
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"{URN}#{quote(pointer)}"}, registry=_registry(), validate_formats=False
    )


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _deepest(error: jsonschema_rs.ValidationError) -> tuple[list[str | int], str]:
    """Return where and what the fault is in that branch of a choice which fits furthest."""
    branches = getattr(error.kind, "context", None) or []
    inner = [_deepest(each) for branch in branches for each in branch[:1]]
    best = max(inner, key=lambda each: len(each[0]), default=None)
    at = list(error.instance_path)
    return best if best is not None and len(best[0]) > len(at) else (at, error.message)


def _answer_schema(template: str, exchange: Exchange) -> str | None:
    responses = DOCUMENT["paths"][template][exchange.method.lower()]["responses"]
    for status in (str(exchange.status), "200", "201"):
        if "application/json" in responses.get(status, {}).get("content", {}):
            return f"/responses/{status}/content/application~1json/schema"
    return None


def _error_faults(answer: bytes) -> Iterator[str]:
    try:
        body = json.loads(answer)
    except ValueError:
        yield f"error is not JSON: {answer[:100]!r}"
        return
    yield from (f"error {fault}" for fault in faults("/components/schemas/ErrorResponse", body))


def _without_extensions(template: str, body: Any, finding: Finding) -> Any:
    for extension in EXTENSIONS:
        if template in extension.paths and extension.remove(body):
            finding.removed.append(extension.name)
    return body


def _stream_faults(template: str, exchange: Exchange, finding: Finding) -> Iterator[str]:
    schema = STREAMS.get(template)
    if schema is None:
        return
    events: list[Any] = []
    for block in exchange.answer.decode().replace("\r\n", "\n").split("\n\n"):
        lines = block.splitlines()
        data = "\n".join(line[5:].strip() for line in lines if line.startswith("data:"))
        if not data:
            continue
        event: Any = data if data == "[DONE]" else json.loads(data)
        events.append(event)
        names = [line[6:].strip() for line in lines if line.startswith("event:")]
        if names and names != [event.get("type")]:
            yield f"event {len(events)}: named {names[0]}, but its type is {event.get('type')}"
        yield from _event_faults(schema, event, len(events), finding)
    if not events and "starting_after=" in exchange.query:
        return  # whoever has everything misses nothing: the document asks for no last event then
    yield from (_chat_order if "completions" in template else _response_order)(events)


def _event_faults(schema: str, event: Any, number: int, finding: Finding) -> Iterator[str]:
    if event == "[DONE]":
        return
    finding.events += 1
    if "error" in event and "choices" not in event and event.get("type") != "error":
        yield from _error_faults(json.dumps(event).encode())
        return
    for fault in faults(f"/components/schemas/{schema}", event):
        yield f"event {number} {event.get('type') or event.get('object')}: {fault}"


def _chat_order(events: list[Any]) -> Iterator[str]:
    if not events or events[-1] != "[DONE]":
        if not events or "error" not in events[-1]:
            yield "the stream ends in neither [DONE] nor an error"
        return
    chunks = [event for event in events[:-1] if event.get("choices")]
    if len({chunk["id"] for chunk in chunks}) > 1:
        yield "the id changes within the stream"
    if not any(choice.get("finish_reason") for chunk in chunks for choice in chunk["choices"]):
        yield "no chunk has a finish_reason"
    first = chunks[0]["choices"][0] if chunks else {}
    if "delta" in first and first["delta"].get("role") != "assistant":
        yield "the first delta does not name the role"


def _response_order(events: list[Any]) -> Iterator[str]:
    numbers = [event.get("sequence_number", -1) for event in events if event != "[DONE]"]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False:
        yield f"the sequence numbers are not consecutive: {numbers[:20]}"
    told = [event.get("type") for event in events if event != "[DONE]"]
    if not told or told[-1] not in LAST_OF_A_RESPONSE:
        yield f"the last event is {told[-1:]}"
