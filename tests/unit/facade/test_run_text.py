"""The text of a run in a chat: one message, whatever interrupts the run."""

from __future__ import annotations

from typing import Any

import pytest

from openai_facade.translate.run_text import RunText


def said(text: str, turn: int = 1, field: str = "content") -> dict[str, Any]:
    return {"type": "text", "text": text, "turn": turn, "field": field}


def incomplete(turn: int = 1) -> dict[str, Any]:
    return {"type": "turn_incomplete", "turn": turn}


def finished(turn: int = 1) -> dict[str, Any]:
    return {"type": "turn_finished", "turn": turn}


def shown(*events: dict[str, Any], whole_turns: bool = False, field: str = "content") -> str:
    text = RunText(whole_turns=whole_turns)
    deltas = [delta for event in events for delta in text.feed(event)]
    return "".join(delta.text for delta in deltas if delta.field == field)


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([said("Hel"), said("lo"), finished()], "Hello"),
        ([said("Hel"), incomplete(), said("Hel"), said("lo")], "Hel\n\nHello"),
        ([said("a\n\n"), incomplete(), said("ab")], "a\n\nab"),
        (
            [said("a"), finished(), said("\n\nb", 2), incomplete(2), said("\n\nbc", 2)],
            "a\n\nb\n\nbc",
        ),
        ([said("a"), finished(), incomplete(2), said("\n\nb", 2)], "a\n\nb"),
        ([said("a"), incomplete(), said("b"), incomplete(), said("c")], "a\n\nb\n\nc"),
    ],
)
def test_a_turn_that_begins_anew_follows_after_a_blank_line(
    events: list[dict[str, Any]], text: str
) -> None:
    assert shown(*events) == text


def test_only_the_field_that_was_cut_is_set_apart() -> None:
    events = [said("hm", field="reasoning"), incomplete(), said("ab"), said("c", field="reasoning")]
    assert shown(*events) == "ab"
    assert shown(*events, field="reasoning") == "hm\n\nc"


def test_json_is_shown_only_whole() -> None:
    cut = [said('{"a'), incomplete(), said('{"a"'), said(":1}")]
    assert shown(*cut, whole_turns=True) == ""
    assert shown(*cut, finished(), whole_turns=True) == '{"a":1}'
    assert shown(*cut, {"type": "message"}, whole_turns=True) == '{"a":1}'
