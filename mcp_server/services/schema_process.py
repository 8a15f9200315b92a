"""Checks JSON schemas and holds values against them; as a program, in a process that whoever started it may end."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, cast


def fault_of(schema: Any, value: Any) -> dict[str, Any] | None:
    """Return the first thing that does not fit, `{path, message}`, or `{unusable}` if the schema is at fault.

    JSON Schema 2020-12; no reference leaves the schema. How long it takes is bounded by nothing: a
    pattern, a chain of references or many items can take for ever.
    """
    # Only runs that ask need it, and it takes a while to load.
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # A registry of its own: the default one would fetch a reference over the network.
    validator: Any = Draft202012Validator(schema, registry=Registry[Any]())
    try:
        error = next(validator.iter_errors(value), None)
    except (Unresolvable, RecursionError, ArithmeticError, re.error) as fault:
        return {"unusable": str(fault)}
    if error is None:
        return None
    return {"path": list(error.absolute_path), "message": error.message[:500]}


def schema_fault(schema: Any) -> str | None:
    """Return the first thing that makes this no JSON Schema 2020-12, as `[path]: message`; None if it is one.

    It is one only if each of its references leads to a place in itself.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        Draft202012Validator.check_schema(schema)
        resolver = Registry[Any]().resolver_with_root(DRAFT202012.create_resource(schema))
        for reference in _references(schema):
            resolver.lookup(reference)
    except SchemaError as error:
        return "".join(f"[{part!r}]" for part in error.absolute_path) + f": {error.message[:500]}"
    except Unresolvable as error:
        return f": the reference {error.ref!r} leads to no place in it"
    except RecursionError:
        return ": it is nested too deep"
    return None


def _references(schema: Any) -> Iterator[str]:
    """Yield what its `$ref`s say, wherever a schema may stand in it."""
    if isinstance(schema, dict):
        items = cast("dict[str, Any]", schema)
        if isinstance(items.get("$ref"), str):
            yield items["$ref"]
        for name, item in items.items():
            if name not in {"const", "enum", "default", "examples"}:
                yield from _references(item)
    elif isinstance(schema, list):
        for item in cast("list[Any]", schema):
            yield from _references(item)


if __name__ == "__main__":
    given = json.load(sys.stdin.buffer)
    json.dump(fault_of(given["schema"], given["value"]), sys.stdout)
