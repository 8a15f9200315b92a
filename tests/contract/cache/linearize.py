"""Whether a history of calls could have happened one after the other: the search of Wing and Gong, with a memory.

J. M. Wing, C. Gong: Testing and Verifying Concurrent Objects, 1993; the memory is that of G. Lowe, 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Done:
    """One call: when it began and ended, what it was and what came back.

    `end` is infinite if nothing came back: it took effect at any time after, or never.
    """

    begin: float
    end: float
    name: str
    given: Any
    got: Any

    @property
    def known(self) -> bool:
        return self.end < math.inf


# Returns the states that a call may lead to from a state: none if its answer does not fit.
Step = Callable[[Any, Done], Sequence[Hashable]]


def linearizable(history: Sequence[Done], step: Step, state: Hashable) -> bool:
    """Tell whether the calls fit some order in which none begins after it took effect or ends before."""
    calls = sorted(history, key=lambda call: call.begin)
    wanted = sum(1 << index for index, call in enumerate(calls) if call.known)
    stack = [(0, state)]
    seen = {(0, state)}
    while stack:
        done, state = stack.pop()
        if done & wanted == wanted:
            return True
        for index in _next(calls, done):
            for after in step(state, calls[index]):
                found = (done | 1 << index, after)
                if found not in seen:
                    seen.add(found)
                    stack.append(found)
    return False


def _next(calls: Sequence[Done], done: int) -> list[int]:
    """Return the calls that may be next: those that began before any other one had ended."""
    first_end = math.inf
    found: list[int] = []
    for index in range((~done & (done + 1)).bit_length() - 1, len(calls)):
        if calls[index].begin > first_end:
            break
        if not done >> index & 1:
            found.append(index)
            first_end = min(first_end, calls[index].end)
    return [index for index in found if calls[index].begin <= first_end]


def register(state: Any, call: Done) -> Sequence[Hashable]:
    """One key: its value and version, `(None, 0)` if it is not there. Every write has a value of its own.

    The version is None while a write is there whose answer nobody heard.
    """
    value, version = state
    if call.name == "read":
        same = call.got[0] == value and version in {None, call.got[1]}
        return [tuple(call.got)] if same else []
    if call.name == "delete":
        return [(None, 0)] if not call.known or call.got is (value is not None) else []
    written, expected = call.given
    if not call.known:
        return [(written, None)] if expected in {None, version} or version is None else []
    won, number = call.got
    if not won:
        fits = number != expected and (
            (value is None and number == 0) or (value is not None and version in {None, number})
        )
        return [(value, number)] if fits else []
    fits = expected is None or (expected == 0 if value is None else version in {None, expected})
    return [(written, number)] if fits else []


def lease(state: Any, call: Done) -> Sequence[Hashable]:
    """One lease: its newest token, and whether it was not given back. It may run out at any time."""
    newest, kept = state
    if call.name == "acquire":
        if not call.known:
            return [(newest + 0.5, True)]  # above all that came, below all that come
        if call.got is None:
            return [state] if kept else []
        return [(call.got, True)] if call.got > newest else []
    holds = kept and call.given == newest
    if call.name == "release":
        return [(newest, False)] if holds and call.got is not False else [state] * (not call.got)
    return [state] if holds or not call.got else []
