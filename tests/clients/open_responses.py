"""Check what was said on /v1/responses against the Open Responses specification, and print what does not fit.

Reads a JSON list of [KIND, OBJECT] from stdin, where a kind is response, event or compaction.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import sys
from typing import Any

import openresponses_types
from pydantic import BaseModel, ValidationError


def models(kind: str) -> list[type[BaseModel]]:
    names = {"response": ["ResponseResource"], "compaction": ["CompactResource"]}.get(
        kind, [name for name in dir(openresponses_types) if name.endswith("StreamingEvent")]
    )
    return [getattr(openresponses_types, name) for name in names]


def faults(kind: str, said: dict[str, Any]) -> list[str]:
    """Tell the faults against the model that comes nearest; none if one of them fits."""
    told: list[list[str]] = []
    for model in models(kind):
        try:
            model.model_validate(said)
            return []
        except ValidationError as error:
            told.append([f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()])
    nearest = min(told, key=lambda each: (any(t.startswith("type:") for t in each), len(each)))
    return [f"{said.get('type') or kind} {fault}" for fault in nearest]


if __name__ == "__main__":
    print(json.dumps([f for kind, said in json.load(sys.stdin) for f in faults(kind, said)]))
