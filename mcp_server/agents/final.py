"""What holds for the answers of a loop: whether the last one fits, and what each costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Check: TypeAlias = Callable[[str], Awaitable[str | None]]
"""Return what is wrong with the text of a final answer, None if it fits."""

CostOf: TypeAlias = Callable[[str, Mapping[str, Any]], float | None]
"""Return what an answer of a model cost in US dollars, by its id and its usage; None if that is unknown."""


def unknown_cost(model: str, usage: Mapping[str, Any]) -> float | None:
    """Know no price."""
    del model, usage


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """A final answer that does not pass `check` is given back once with its problem, to be mended."""

    check: Check | None = None
    cost_of: CostOf = unknown_cost


ANY_ANSWER = AnswerRules()


def repair(problem: str) -> dict[str, Any]:
    """Return the message that asks for the answer again."""
    text = f"The answer does not fit: {problem}. Answer again, with nothing but JSON that fits."
    return {"role": "user", "content": text}
