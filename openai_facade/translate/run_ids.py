"""One record, several faces: the ids by which a run's response, its approval requests and its questions name the run."""

from __future__ import annotations

import re
from uuid import uuid4

_RUN, _RESPONSE = "run_", "resp_"
_APPROVAL = re.compile(r"mcpr_([0-9a-f]{32})([0-9a-f]{16})")
_CALL = re.compile(r"call_([0-9a-f]{32})[0-9a-f]{16}")
_QUESTION_DIGITS = 16


def run_of(response: str) -> str:
    """Give the id of the run that makes a response."""
    return f"{_RUN}{response.removeprefix(_RESPONSE)}"


def response_of(run: str) -> str:
    """Give the id of the response that a run makes, or is seen as."""
    return f"{_RESPONSE}{run.removeprefix(_RUN)}"


def approval_id(run: str, question: str | None = None) -> str:
    """Give the id of an approval request of a run: a new one, or always the same for a `question`'s id."""
    digits = uuid4().hex if question is None else question.rpartition("_")[2]
    return f"mcpr_{run.removeprefix(_RUN)}{digits[:_QUESTION_DIGITS]}"


def run_of_approval(approval: str) -> str | None:
    """Give the id of the run that asks for an approval, None if no run does."""
    found = _APPROVAL.fullmatch(approval)
    return None if found is None else f"{_RUN}{found[1]}"


def call_id(run: str, question: str) -> str:
    """Give the id of the function call that stands for a question of a run."""
    digits = question.rpartition("_")[2][:_QUESTION_DIGITS]
    return f"call_{run.removeprefix(_RUN)}{digits}"


def run_of_call(call: str) -> str | None:
    """Give the id of the run whose question a function call stands for, None if it stands for none."""
    found = _CALL.fullmatch(call)
    return None if found is None else f"{_RUN}{found[1]}"


def item_of_call(call: str) -> str:
    """Give the id of the item that such a call is, the same wherever it is told."""
    return f"fc_{call.removeprefix('call_')}"
