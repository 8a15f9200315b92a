"""Make `openai.json` of `openai_facade.specification` from OpenAI's OpenAPI document: the schemas of the paths that we may serve, without its prose.

python tests/traffic/prune.py DOCUMENT   # the openapi.json of https://github.com/openai/openai-openapi (MIT)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

PLACE = Path(__file__).parents[2] / "openai_facade" / "specification" / "openai.json"
FACES = (
    *("audio", "batches", "chat", "completions", "conversations", "embeddings", "files", "images"),
    *("models", "moderations", "responses", "uploads", "vector_stores"),
)
PROSE = frozenset({"description", "example", "examples", "summary", "title", "externalDocs"})


def plain(node: Any, *, named: bool = False) -> Any:
    """Return a schema without prose; under `named` the keys are names of fields, not of JSON Schema."""
    if isinstance(node, list):
        return [plain(item) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    fields = cast("dict[str, Any]", node)
    kept = {
        name: plain(value, named=name in {"properties", "schemas"} and not named)
        for name, value in fields.items()
        if named or not (name in PROSE or name.startswith("x-"))
    }
    if not named and kept.pop("nullable", False):  # of OpenAPI 3.0: JSON Schema does not know it
        return {"anyOf": [kept, {"type": "null"}]}
    return kept


def closed(node: Any, name: str) -> Any:
    """Return a schema that refers to itself by its name: checkers of 2020-12 do not know $recursiveRef."""
    if isinstance(node, list):
        return [closed(item, name) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    fields = cast("dict[str, Any]", node)
    if fields.get("$recursiveRef") == "#":
        return {"$ref": f"#/components/schemas/{name}"}
    kept = {key: closed(value, name) for key, value in fields.items()}
    kept.pop("$recursiveAnchor", None)
    return kept


def references(node: Any) -> set[str]:
    """Return the names of the schemas that a part of the document refers to."""
    if isinstance(node, list):
        return {name for item in cast("list[Any]", node) for name in references(item)}
    if not isinstance(node, dict):
        return set()
    fields = cast("dict[str, Any]", node)
    own = fields.get("$ref")
    found = {own.rpartition("/")[2]} if isinstance(own, str) else set[str]()
    return found.union(*(references(value) for value in fields.values()))


def pruned(document: dict[str, Any]) -> dict[str, Any]:
    """Return the paths of FACES and every schema that they reach."""
    paths = {
        path: plain(operations)
        for path, operations in document["paths"].items()
        if path.split("/")[1] in FACES and "?" not in path
    }
    schemas: dict[str, Any] = {}
    ahead = references(paths) | {"ErrorResponse", "ResponseStreamEvent"}
    while ahead:
        name = ahead.pop()
        if name in document["components"]["schemas"]:
            schemas[name] = closed(plain(document["components"]["schemas"][name]), name)
            ahead |= references(schemas[name]) - schemas.keys()
    info = {"title": "OpenAI API", "version": document["info"]["version"]}
    others = {path.partition("?")[0].split("/")[1] for path in document["paths"]} - set(FACES)
    return {
        "openapi": document["openapi"],
        "info": info,
        "x-others": sorted(others),
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


if __name__ == "__main__":
    source = json.loads(Path(sys.argv[1]).read_text())
    PLACE.write_text(json.dumps(pruned(source), separators=(",", ":")) + "\n")
