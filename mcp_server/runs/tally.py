"""What runs used up, counted in their rows as they tell of it: turns, tool calls, tokens and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, BindParameter, Double, bindparam

from mcp_server.runs.record import Event

_WHOLE = ("turns", "tool_calls", "tool_errors", "prompt_tokens", "completion_tokens")

# In the statement that stores the events: an event that is stored once is counted once, whatever
# becomes of the run. What a turn cost that was broken off and asked anew was spent all the same.
ADDED = ", ".join(f"{name} = {name} + :{name}" for name in (*_WHOLE, "cost"))
TYPED: tuple[BindParameter[Any], ...] = (
    *(bindparam(name, type_=BigInteger()) for name in _WHOLE),
    bindparam("cost", type_=Double[float]()),
)


def tally(events: Sequence[Event]) -> dict[str, Any]:
    """Return the parameters of `ADDED` for events of which none has been counted."""
    used: dict[str, Any] = dict.fromkeys(_WHOLE, 0) | {"cost": 0.0}
    for event in events:
        match event.get("type"):
            case "turn_finished":
                used["turns"] += 1
                usage: dict[str, Any] = event.get("usage") or {}
                for name in ("prompt_tokens", "completion_tokens", "cost"):
                    used[name] += _number(usage.get(name))
            case "tool_finished":
                used["tool_calls"] += 1
                used["tool_errors"] += bool(event.get("is_error"))
            case _:
                pass
    return used | {name: int(used[name]) for name in _WHOLE}


def _number(value: object) -> float:
    """Read a count of an upstream's, which may send anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return value if 0 <= value < 1e12 else 0
