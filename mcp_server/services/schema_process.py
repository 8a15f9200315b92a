"""Holds a value against a JSON schema; as a program, in a process that whoever started it may end."""

from __future__ import annotations

import json
import re
import sys
from typing import Any


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


if __name__ == "__main__":
    given = json.load(sys.stdin.buffer)
    json.dump(fault_of(given["schema"], given["value"]), sys.stdout)
