"""What of a value may be stored: always JSON, never too long, and nothing lost that could stay."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server.runs.cleaning import MAX_EVENT_BYTES, clean, clean_event
from mcp_server.runs.redaction import Redaction
from mcp_server.storage.sql.schema import encode_json

LEAST = 50_000
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
    lambda inner: st.lists(inner, max_size=6)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8), inner, max_size=6),
    max_leaves=30,
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner)
    | st.tuples(inner),
    max_leaves=30,
)  # fmt: skip


def repeated(value: Any, times: int) -> Any:
    return [value, {"a": [value] * times, "b": "中" * times, "c": 1}] * 3


@given(JSON)
def test_what_is_clean_and_short_stays_as_it_is(value: Any) -> None:
    assert clean(value) == value


@settings(max_examples=150, deadline=None)
@given(ANYTHING, st.integers(1, 20_000))
def test_anything_becomes_json_within_the_bound_and_cleaning_again_changes_nothing(
    value: Any, times: int
) -> None:
    big = repeated(value, times)
    cleaned = clean(big, LEAST)
    assert len(encode_json(cleaned)) <= LEAST
    assert clean(cleaned, LEAST) == cleaned


@pytest.mark.parametrize(
    ("value", "mark"),
    [
        ("x" * 50_000_000, "[cut: 50000000 characters in all]"),
        ("中" * 20_000_000, "[cut: 20000000 characters in all]"),
        (b"\xff" * 50_000_000, "[cut: 50000000 bytes in all]"),
        (["ab"] * 10_000_000, "[cut: 10000000 items in all]"),
        ({str(n): [n] for n in range(300_000)}, "300000 fields in all"),
        ([[["x" * 10_000_000]]], "[cut: 10000000 characters in all]"),
    ],
    ids=["ascii", "chinese", "bytes", "list", "object", "nested"],
)
def test_what_is_cut_says_how_long_it_was_and_uses_the_room(value: Any, mark: str) -> None:
    begun = time.monotonic()
    text = encode_json(clean(value, MAX_EVENT_BYTES))
    assert 0.9 * MAX_EVENT_BYTES < len(text) <= MAX_EVENT_BYTES
    assert mark in text
    assert time.monotonic() - begun < 20


def test_short_fields_outlive_a_long_one_before_them() -> None:
    event = clean_event({"type": "tool_finished", "text": "x" * 3_000_000, "call": "c", "ok": True})
    assert list(event) == ["type", "text", "call", "ok"]
    assert (event["type"], event["call"], event["ok"]) == ("tool_finished", "c", True)


def test_a_value_within_itself_or_without_end_is_cut() -> None:
    circle: list[Any] = []
    circle += [circle, circle]
    assert len(encode_json(clean(circle, LEAST))) <= LEAST
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    assert "nested deeper than 100" in encode_json(clean(deep))


@given(JSON)
def test_without_the_named_fields_redaction_changes_nothing(value: Any) -> None:
    assert Redaction(frozenset({"password-of-mine"})).apply(value) == value


@given(JSON, st.sampled_from(["password", "PASSWORD", "Pass-Wort.x"]), JSON)
def test_a_secret_is_found_however_deep_it_is_wrapped(around: Any, name: str, secret: Any) -> None:
    redaction = Redaction(frozenset({"password", "pass-wort.x"}))
    marked = {"s": "hunter2", "v": secret}
    wrapped: Any = {name: marked, "other": around}
    for layer in range(6):
        wrapped = [json.dumps(wrapped)] if layer % 2 else {"x": wrapped, "y": around}
    assert "hunter2" in json.dumps(wrapped)
    assert "hunter2" not in json.dumps(redaction.apply(wrapped))


@pytest.mark.parametrize("name", ["密码", 'a"b', "naïve"])
def test_a_field_may_have_any_name(name: str) -> None:
    redacted = Redaction(frozenset({name})).apply({"t": json.dumps({name: "hunter2"})})
    assert "hunter2" not in redacted["t"]
    assert name in json.loads(redacted["t"])


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    "secret", ["hunter2", 'say "hunter2" \\', ["a", {"b": "hunter2"}], {"c": "hunter2"}]
)
def test_a_text_that_was_cut_shows_no_secret(layers: int, secret: Any) -> None:
    text = json.dumps({"user": "ann", "password": secret, "z": 1})
    for _ in range(layers - 1):
        text = json.dumps({"more": text, "z": 1})
    redaction = Redaction(frozenset({"password"}))
    for length in range(len(text)):
        redacted = redaction.apply(text[:length])
        assert "hunter2" not in redacted
        assert "ann" in redacted or "ann" not in text[:length]


def test_what_stands_beside_a_secret_in_a_cut_text_stays() -> None:
    text = '[{"password": "hunter2", "a": 1}, {"password": null, "b": 2}, {"c": "cut'
    assert Redaction(frozenset({"password"})).apply(text) == (
        '[{"password": "[redacted]", "a": 1}, {"password": "[redacted]", "b": 2}, {"c": "cut'
    )
