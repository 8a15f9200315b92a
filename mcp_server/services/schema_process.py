"""Checks JSON schemas and holds values against them; as a program, in a process that whoever started it may end."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, cast

MOST_IN_A_LIST = 200
# What stands under these keywords is no schema.
_VALUES = frozenset({"const", "enum", "default", "examples"})


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
        parts = list(_parts(schema))
        if any(isinstance(part, list) and _is_slow(cast("list[Any]", part)) for part in parts):
            return f": a list in it has more than {MOST_IN_A_LIST} entries that are no texts"
        Draft202012Validator.check_schema(schema)
        resolver = Registry[Any]().resolver_with_root(DRAFT202012.create_resource(schema))
        for part in parts:
            reference = cast("dict[str, Any]", part).get("$ref") if isinstance(part, dict) else None
            if isinstance(reference, str):
                resolver.lookup(reference)
    except SchemaError as error:
        return "".join(f"[{part!r}]" for part in error.absolute_path) + f": {error.message[:500]}"
    except Unresolvable as error:
        return f": the reference {error.ref!r} leads to no place in it"
    except RecursionError:
        return ": it is nested too deep"
    return None


def _parts(schema: Any) -> Iterator[Any]:
    """Yield every object and list in which schemas may stand, the schema itself first."""
    yield schema
    if isinstance(schema, dict):
        items = cast("dict[str, Any]", schema)
        further = [item for name, item in items.items() if name not in _VALUES]
    else:
        further = cast("list[Any]", schema) if isinstance(schema, list) else []
    for item in further:
        if isinstance(item, dict | list):
            yield from _parts(item)


def _is_slow(entries: list[Any]) -> bool:
    """Tell whether to look for equal entries takes time by their square: they cannot be sorted."""
    return len(entries) > MOST_IN_A_LIST and not all(isinstance(entry, str) for entry in entries)


if __name__ == "__main__":
    given = json.load(sys.stdin.buffer)
    json.dump(fault_of(given["schema"], given["value"]), sys.stdout)
