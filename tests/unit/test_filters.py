"""The filter grammar: what it takes, and how it refuses the rest."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, DateTime, LargeBinary, MetaData, Table, column, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

from mcp_server import filters
from mcp_server.errors import InvalidInput
from mcp_server.filters import Comparison, Compound

LANG = {"type": "eq", "key": "lang", "value": "en"}


def nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = LANG
    for _ in range(depth - 1):
        node = {"type": "and", "filters": [node]}
    return node


def test_a_comparison_and_a_compound_become_a_tree() -> None:
    raw = {"type": "or", "filters": [LANG, {"type": "nin", "key": "year", "value": [1, 2.5, True]}]}
    assert filters.parse(raw) == Compound(
        "or", (Comparison("eq", "lang", "en"), Comparison("nin", "year", (1, 2.5, True)))
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "filter: it is not an object"),
        ([], "filter: it is not an object"),
        ({}, "filter.type: None is not one of eq, ne"),
        ({"type": ["eq"]}, "filter.type: "),
        ({"type": "like", "key": "a", "value": "b"}, "'like' is not one of"),
        (LANG | {"and": 1}, "filter.and: unknown; known are key, type, value"),
        ({"type": "eq", "value": 1}, "filter.key: give a text"),
        ({"type": "eq", "key": "", "value": 1}, "filter.key: give a text"),
        ({"type": "eq", "key": "k" * 257, "value": 1}, "filter.key: give a text"),
        ({"type": "eq", "key": "a\0", "value": 1}, "filter.key: it holds U\\+0000"),
        ({"type": "eq", "key": "a"}, "filter.value: give a text, a number"),
        ({"type": "eq", "key": "a", "value": None}, "filter.value: give a text"),
        ({"type": "eq", "key": "a", "value": {}}, "filter.value: give a text"),
        ({"type": "eq", "key": "a", "value": float("nan")}, "filter.value: give"),
        ({"type": "eq", "key": "a", "value": 10**500}, "filter.value: give"),
        ({"type": "eq", "key": "a", "value": "\ud800"}, "half a surrogate"),
        ({"type": "eq", "key": "a", "value": "x" * 8193}, "at most 8192"),
        ({"type": "gt", "key": "a", "value": True}, "gt orders texts and numbers"),
        ({"type": "in", "key": "a", "value": "b"}, "in needs a list"),
        ({"type": "in", "key": "a", "value": [1, [2]]}, r"filter.value\[1\]: give"),
        ({"type": "in", "key": "a", "value": list(range(1001))}, "more than 1000 values"),
        ({"type": "and"}, "filter.filters: give a list"),
        ({"type": "and", "filters": []}, "filter.filters: give a list"),
        ({"type": "and", "filters": [LANG, {"type": "x"}]}, r"filter.filters\[1\].type: 'x'"),
        ({"type": "or", "filters": [LANG] * 101}, "more than 100 comparisons"),
        (nested(9), "nested deeper than 8"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused_with_its_place(raw: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refusal:
        filters.parse(raw)
    assert refusal.value.param == "filter"


def test_the_deepest_allowed_filter_is_taken() -> None:
    filters.parse(nested(8))


@pytest.mark.parametrize("comparator", filters.COMPARATORS)
def test_no_text_of_a_caller_reaches_the_statement(comparator: str) -> None:
    hostile = "x') or 1=1 --"
    value: Any = [hostile] if comparator in {"in", "nin"} else hostile
    node = filters.parse({"type": comparator, "key": hostile, "value": value})
    metadata = column("metadata", JSONB)
    statement = select(1).where(filters.compile(node, lambda key: metadata[key]))
    compiled = statement.compile(dialect=postgresql.dialect())
    assert "1=1" not in str(compiled)
    assert hostile in str(compiled.params)


@pytest.mark.parametrize("value", ["yesterday", "2026-01-01", 3, True])
def test_a_time_is_compared_with_a_time_that_has_an_offset(value: Any) -> None:
    node = filters.parse({"type": "gt", "key": "at", "value": value} | _equal_if_boolean(value))
    with pytest.raises(InvalidInput, match="compare it with ISO 8601"):
        filters.compile(node, lambda _: column("at", DateTime(True)))


def test_a_column_of_another_kind_cannot_be_filtered_on() -> None:
    table = Table("t", MetaData(), Column("raw", LargeBinary))
    with pytest.raises(InvalidInput, match="'raw' cannot be filtered on"):
        filters.compile(Comparison("eq", "raw", "x"), lambda key: table.c[key])


def _equal_if_boolean(value: object) -> dict[str, str]:
    return {"type": "eq"} if isinstance(value, bool) else {}
