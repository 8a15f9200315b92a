"""Expressions for Milvus admit all that a filter does, and hold nothing that a caller wrote."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server import filters
from mcp_server.storage.vectors import Batch, Entry, Restriction, Store
from mcp_server.storage.vectors.milvus import fields
from tests.contract.vectors.test_filter_semantics import METADATA, SCALARS, any_filter, evaluate

STORE = Store("vs_0123456789abcdef01234567", "t", "s", "m", 2)
# All that an expression may consist of.
PLAIN = re.compile(
    r"(?:tenant|store|generation|document|labels|numbers|array_contains(?:_any)?|and|or|not|like|in"
    r"|\"[0-9a-f]*%?\"|\"n[0-9a-f]{16}\"|\"vs_[0-9a-f]{24}\"|-?[0-9.]+(?:e[+-]?[0-9]+)?|==|>=|<=|[()\[\],]|\s)*"
)


def admits(expression: str, metadata: dict[str, Any]) -> bool:
    """Read the part of an expression about metadata as Milvus does."""
    labels, numbers = fields.labels_of(metadata), fields.numbers_of(metadata)
    python = expression.partition(f'store == "{STORE.id}"')[2].removeprefix(" and ") or "True"
    python = re.sub(r'numbers\["(\w+)"\] (..) (\S+?)(?=[\s)]|$)', r'number("\1", "\2", \3)', python)

    def number(key: str, sign: str, value: float) -> bool:
        return key in numbers and (numbers[key] >= value if sign == ">=" else numbers[key] <= value)

    known = {
        "number": number,
        "labels": labels,
        "generation": 0,
        "array_contains": lambda held, one: one in held,
        "array_contains_any": lambda held, some: bool(set(held) & set(some)),
    }
    return bool(eval(python, {"__builtins__": {}}, known))


@given(raw=any_filter(SCALARS), metadata=METADATA)
def test_an_expression_never_leaves_out_what_a_filter_admits(
    raw: dict[str, Any], metadata: dict[str, Any]
) -> None:
    node = filters.parse(raw)
    expression = fields.restricted(STORE, Restriction(node))
    assert PLAIN.fullmatch(expression), expression
    if evaluate(node, metadata):
        assert admits(expression, metadata)


@pytest.mark.parametrize("comparator", ["eq", "in", "ne", "nin"])
@given(value=SCALARS, metadata=METADATA)
def test_equality_is_decided_exactly(comparator: str, value: Any, metadata: dict[str, Any]) -> None:
    asked = [value] if comparator in {"in", "nin"} else value
    node = filters.parse({"type": comparator, "key": "a", "value": asked})
    expression = fields.restricted(STORE, Restriction(node))
    assert admits(expression, metadata) == evaluate(node, metadata)


INJECTIONS = [
    'x") or (id >= 0',
    'x" or tenant != "',
    "id >= 0) or (id >= 0",
    'a\\" or 1 == 1 or "',
    "{x}",
    "%",
    "_",
    "'; drop table documents; --",
    '\u202e\u2066"',
    "]) or array_contains(labels, 1",
    'a"] >= 0 or numbers["b',
]


@pytest.mark.parametrize("hostile", INJECTIONS)
def test_no_name_and_no_value_gets_into_an_expression(hostile: str) -> None:
    for comparator, value in [("eq", hostile), ("in", [hostile]), ("gt", 1), ("lte", 2.5)]:
        node = filters.parse({"type": comparator, "key": hostile, "value": value})
        expression = fields.restricted(STORE, Restriction(node, (hostile, "a")))
        assert PLAIN.fullmatch(expression), expression
    hostile_tenant = Store(STORE.id, hostile, "s", "m", 2)
    assert PLAIN.fullmatch(fields.within_store(hostile_tenant))
    with pytest.raises(ValueError, match="is no store's id"):
        fields.within_store(Store(f"vs_{hostile}", "t", "s", "m", 2))


@given(st.lists(st.text(max_size=8), max_size=30))
def test_the_weights_of_tokens_are_those_of_bm25(tokens: list[str]) -> None:
    weights = fields.term_weights(tokens)
    assert weights
    assert all(0 <= place < 2**32 - 1 and weight > 0 for place, weight in weights.items())


def test_an_entry_holds_names_in_hexadecimal_only() -> None:
    batch = Batch(STORE, "a\"'名", {"k": 1, "deep": {"x": 1}}, [Entry(7, ["word"], [1.0, 0.0])])
    [row] = fields.entity_rows(batch)
    assert bytes.fromhex(row["document"]).decode() == batch.document
    assert (row["id"], row["generation"], len(row["labels"])) == (7, 7, 1)
    assert "deep" not in str(row)
