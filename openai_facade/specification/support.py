"""What this server does with each parameter of OpenAI's API, read from `support.toml`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, cast

from mcp_server.doors import DeclaredRoute

Key = tuple[str, str]
"""Method and path, such as `("GET", "/models/{}")`: what stands in braces is a name that anyone may choose."""

_HERE = "openai_facade.specification"
_BASE = "/v1"
_SLOT = re.compile(r"\{[^}]*\}")
_METHODS = ("get", "post", "delete", "put", "patch")


@dataclass(frozen=True, slots=True)
class Support:
    """One endpoint: its path as OpenAI's document has it, and what is done with which of its parameters."""

    method: str
    path: str
    supported: tuple[str, ...]
    passed_on: tuple[str, ...]
    without_effect: tuple[str, ...]
    refused: tuple[str, ...]
    answers: tuple[str, ...]
    only_answers: tuple[str, ...]
    note: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """Every parameter that the section names."""
        return (*self.supported, *self.passed_on, *self.without_effect, *self.refused)


@cache
def openai_document() -> dict[str, Any]:
    """Give OpenAI's document without its prose: the paths that a server like this one may have."""
    return json.loads(files(_HERE).joinpath("openai.json").read_bytes())


@cache
def support() -> dict[Key, Support]:
    """Give what is said of each endpoint, in the order of the file."""
    told = tomllib.loads(files(_HERE).joinpath("support.toml").read_text(encoding="utf-8"))
    sections = [_section(name, fields) for name, fields in told.items()]
    return {key_of(each.method, each.path): each for each in sections}


def key_of(method: str, path: str) -> Key:
    """Give the method and the path without the names in it."""
    return method.upper(), _SLOT.sub("{}", path)


def declared_endpoints(routes: Iterable[DeclaredRoute]) -> Iterator[Key]:
    """Give the endpoints that routes under /v1 serve."""
    for route in routes:
        for method in sorted((route.methods or set[str]()) - {"HEAD"}):
            if route.path.startswith(f"{_BASE}/"):
                yield key_of(method, route.path.removeprefix(_BASE))


def openai_operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give method, path and description of each endpoint in OpenAI's document."""
    for path, operations in openai_document()["paths"].items():
        for method in _METHODS:
            if method in operations:
                yield method.upper(), path, operations[method]


def openai_parameters(operation: Mapping[str, Any]) -> list[str]:
    """Give the names in an endpoint's query and at the top of its body."""
    found = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        found += _properties(content["schema"])
    return list(dict.fromkeys(found))


def _properties(schema: Mapping[str, Any]) -> list[str]:
    if "$ref" in schema:
        name = cast("str", schema["$ref"]).rpartition("/")[2]
        return _properties(openai_document()["components"]["schemas"][name])
    found = list(schema.get("properties", {}))
    for combined in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(combined, ()):
            found += _properties(part)
    return found


def _section(name: str, fields: Mapping[str, Any]) -> Support:
    method, _, path = name.partition(" ")
    names = {
        kind: tuple(fields.get(kind, "").split())
        for kind in ("supported", "passed_on", "without_effect", "refused")
    }
    return Support(
        method,
        path,
        **names,
        answers=tuple(fields.get("answers", ())),
        only_answers=tuple(fields.get("only_answers", ())),
        note=fields.get("note", ""),
    )
