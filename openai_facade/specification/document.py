"""The OpenAPI document of what this server does under /v1: OpenAI's own, cut down and mended to what is true here."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

from mcp_server import __version__
from openai_facade.specification.amendments import amended
from openai_facade.specification.support import (
    Support,
    key_of,
    openai_document,
    openai_operations,
    support,
)

_ERROR = {
    "description": "An error: see docs/openai.md#errors",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}},
    },
}
_SUCCESS = "2"
# OpenAPI has no form for it.
_SOCKET = (
    "`/v1/responses` is a WebSocket as well (GET, with the same key): each message is an event "
    "`response.create` with the fields of the request, and is answered by the events of its stream."
)


def openapi_document() -> dict[str, Any]:
    """Make the document of every endpoint in `support.toml`, for all roles together.

    Paths are OpenAI's; a parameter that is refused is not in it.
    """
    paths: dict[str, dict[str, Any]] = {}
    for method, path, operation in openai_operations():
        told = support().get(key_of(method, path))
        if told is not None:
            paths.setdefault(f"/v1{path}", {})[method.lower()] = _operation(told, operation)
    schemas = amended(copy.deepcopy(openai_document()["components"]["schemas"]))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Isthmus: the OpenAI face",
            "version": __version__,
            "description": "Schemas: OpenAI's OpenAPI document "
            f"{openai_document()['info']['version']} (MIT). See also docs/openai.md. {_SOCKET}",
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _reached(paths, schemas),
        },
    }


def _operation(told: Support, operation: Mapping[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation["operationId"],
        "tags": [told.path.split("/")[1]],
    }
    parameters = [
        _parameter(each)
        for each in operation.get("parameters", ())
        if each["name"] not in told.refused
    ]
    if parameters:
        described["parameters"] = parameters
    if "requestBody" in operation:
        described["requestBody"] = _body(told, operation["requestBody"])
    responses = {
        status: _answer(told, answer)
        for status, answer in operation["responses"].items()
        if status.startswith(_SUCCESS)
    }
    return {**described, "responses": {**responses, "4XX": _ERROR, "5XX": _ERROR}}


def _parameter(given: Mapping[str, Any]) -> dict[str, Any]:
    parameter = copy.deepcopy(dict(given))
    if parameter["in"] == "path":
        parameter["schema"] = {"type": "string", "minLength": 1}
    return parameter


def _body(told: Support, given: Mapping[str, Any]) -> dict[str, Any]:
    content = {
        kind: {"schema": _without(told.refused, each["schema"])}
        for kind, each in given["content"].items()
    }
    return {"required": given.get("required", False), "content": content}


def _without(refused: tuple[str, ...], schema: Mapping[str, Any]) -> dict[str, Any]:
    if not refused:
        return dict(schema)
    absent = {"properties": dict.fromkeys(refused, False)}
    return {"allOf": [dict(schema), absent]}


def _answer(told: Support, given: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {} if told.only_answers else copy.deepcopy(given.get("content", {}))
    for kind in (*told.answers, *told.only_answers):
        content.setdefault(kind, {"schema": {}})
    described: dict[str, Any] = {"description": "Done"}
    return {**described, "content": content} if content else described


def _reached(paths: Any, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Give the schemas that the paths refer to, by any way."""
    found: dict[str, Any] = {}
    ahead = _references(paths)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found[name] = schemas[name]
            ahead |= _references(schemas[name])
    return dict(sorted(found.items()))


def _references(node: Any) -> set[str]:
    if isinstance(node, list):
        return {name for item in cast("list[Any]", node) for name in _references(item)}
    if not isinstance(node, dict):
        return set()
    fields = cast("dict[str, Any]", node)
    own = fields.get("$ref")
    found = {own.rpartition("/")[2]} if isinstance(own, str) else set[str]()
    return found.union(*(_references(value) for value in fields.values()))
