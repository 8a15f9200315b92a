"""What a model reads of a call that failed: the error, and whether to try again."""

from __future__ import annotations

import re

_CODED = re.compile(r"([a-z][a-z_]*): ")

_AGAIN = "Try again: the same call may succeed a little later."
_FAILED = "It failed for good: do not repeat this call."
_ADVICE = {
    "unavailable": _AGAIN,
    "timeout": _AGAIN,
    "limit_exceeded": _AGAIN,
    "conflict": "Try again with what is there now: look first, it was changed in the meantime.",
    "invalid_input": "It failed for good as it is: mend the arguments, then call again.",
    "not_found": "It failed for good as it is: call again only with a name that exists.",
}


def failure_text(text: str) -> str:
    """Give the text of a failed call, `CODE: message` and a line that says what to do about it.

    An error that names no code, as one of a tool elsewhere may, gets `failed`.
    """
    coded = _CODED.match(text)
    code = coded[1] if coded else "failed"
    return f"{text if coded else f'{code}: {text}'}\n{_ADVICE.get(code, _FAILED)}"


class Failures:
    """Counts in how many turns the very same call failed since it last succeeded."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, str], set[int]] = {}

    def note(self, turn: int, name: str, arguments: str, *, is_error: bool) -> None:
        """Take in one call's end; several of one turn count once."""
        if is_error:
            self._turns.setdefault((name, arguments), set()).add(turn)
        else:
            self._turns.pop((name, arguments), None)

    @property
    def most(self) -> int:
        """In how many turns the call failed that failed in most."""
        return max(map(len, self._turns.values()), default=0)
