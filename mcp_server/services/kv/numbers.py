"""Sums of JSON numbers, exact or refused."""

from __future__ import annotations

import math
from decimal import Context, Decimal, Inexact
from typing import Any

from mcp_server.errors import InvalidInput
from mcp_server.services.kv.items import wrong_kind

# Far beyond what counts anything; a sum can be added up again without growing for ever.
MAX_DIGITS = 34


def add(value: Any, by: float) -> float:
    """Return `value + by`: an integer if both are, else the decimal that a JSON reader gets back.

    Raises:
        Conflict: `value` is not a number. InvalidInput: the sum cannot be held without loss.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_kind()
    if isinstance(by, bool) or not math.isfinite(by):
        raise InvalidInput(f"by: {by} is not a number", param="by")
    if isinstance(value, int) and isinstance(by, int):
        total = value + by
        if abs(total) >= 10**MAX_DIGITS:
            raise _too_long()
        return total
    try:
        exact = Context(prec=MAX_DIGITS, traps=[Inexact]).add(_exact(value), _exact(by))
    except Inexact:
        raise _too_long() from None
    nearest = float(exact)
    if not math.isfinite(nearest) or _exact(nearest) != exact:
        raise InvalidInput(
            f"by: the sum {exact} has more digits than a decimal JSON number keeps; "
            "count in whole units",
            param="by",
        )
    return nearest


def _exact(value: float) -> Decimal:
    """Return the decimal number that was written, not the binary one that stands for it."""
    return Decimal(repr(value))


def _too_long() -> InvalidInput:
    return InvalidInput(f"by: the sum has more than {MAX_DIGITS} digits", param="by")
