"""Metadata: the texts that a client keeps with an object of its own."""

from __future__ import annotations

from openai_facade.wire.faults import invalid
from openai_facade.wire.fields import as_object, as_string

_MOST_PAIRS = 16
_LONGEST_NAME = 64
_LONGEST_VALUE = 512


def check_metadata(place: str, value: object) -> None:
    """Check OpenAI's bounds of metadata: 16 texts, names of 64 and values of 512 characters.

    Raises:
        InvalidRequest: it is no such object.
    """
    fields = as_object(place, value)
    if len(fields) > _MOST_PAIRS:
        raise invalid(place, f"expected at most {_MOST_PAIRS} keys, but got {len(fields)} instead.")
    for name, item in fields.items():
        here = f"{place}.{name[:80]}"
        if len(name) > _LONGEST_NAME or len(as_string(here, item)) > _LONGEST_VALUE:
            raise invalid(
                here,
                f"names have at most {_LONGEST_NAME} and values {_LONGEST_VALUE} characters.",
            )
