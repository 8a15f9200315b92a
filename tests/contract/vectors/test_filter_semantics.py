"""Filters compiled to SQL mean on PostgreSQL what a plain reading of the grammar says."""

from __future__ import annotations

import operator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    MetaData,
    Table,
    Text,
    column,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import filters
from mcp_server.filters import Comparison, Filter

KEYS = st.sampled_from(["a", "b", "ключ", "x y", "0", "", "a'\"\\b"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
SCALARS = st.one_of(
    st.sampled_from(["", "a", "A", "b", "ä", "z", "中", "\U0001f642", "1", "true"]),
    TEXTS,
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([0.0, -0.0, 1.0, 0.1, 2.5, 1e16, 1e300, -1e-300]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
METADATA = st.dictionaries(
    KEYS,
    SCALARS
    | st.none()
    | st.lists(SCALARS, max_size=2)
    | st.dictionaries(KEYS, SCALARS, max_size=2),
    max_size=4,
)


def _comparison(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    plain = st.fixed_dictionaries(
        {"type": st.sampled_from(["eq", "ne"]), "key": KEYS.filter(bool), "value": scalars}
    )
    ordered = st.fixed_dictionaries(
        {
            "type": st.sampled_from(["gt", "gte", "lt", "lte"]),
            "key": KEYS.filter(bool),
            "value": scalars.filter(lambda value: not isinstance(value, bool)),
        }
    )
    listed = st.fixed_dictionaries(
        {
            "type": st.sampled_from(["in", "nin"]),
            "key": KEYS.filter(bool),
            "value": st.lists(scalars, max_size=4),
        }
    )
    return plain | ordered | listed


def any_filter(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.recursive(
        _comparison(scalars),
        lambda inner: st.fixed_dictionaries(
            {"type": st.sampled_from(["and", "or"]), "filters": st.lists(inner, min_size=1)}
        ),
        max_leaves=6,
    )


def _kind(value: object) -> str | None:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case _:
            return None


def _equal(left: object, right: object) -> bool:
    if _kind(left) is None or _kind(left) != _kind(right):
        return False
    return _exact(left) == _exact(right)


def _exact(value: Any) -> Any:
    # The decimal that JSON writes, not the binary number nearest to it.
    return Decimal(repr(value)) if _kind(value) == "number" else value


ORDERS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def evaluate(node: Filter, metadata: dict[str, Any]) -> bool:
    """Read a filter as the module's docstring says it."""
    if not isinstance(node, Comparison):
        parts = [evaluate(item, metadata) for item in node.filters]
        return all(parts) if node.type == "and" else any(parts)
    stored, value = metadata.get(node.key), node.value
    if isinstance(value, tuple):
        held = any(_equal(stored, item) for item in value)
        return held if node.type == "in" else not held
    if node.type in {"eq", "ne"}:
        return _equal(stored, value) is (node.type == "eq")
    same = _kind(stored) is not None and _kind(stored) == _kind(value)
    return same and ORDERS[node.type](_exact(stored), _exact(value))


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(METADATA, min_size=1, max_size=8), raw=any_filter(SCALARS))
async def test_a_filter_over_metadata_means_what_it_says(
    control: AsyncEngine, rows: list[dict[str, Any]], raw: dict[str, Any]
) -> None:
    node = filters.parse(raw)
    each = (
        func.jsonb_array_elements(literal(rows, JSONB))
        .table_valued(column("value", JSONB), with_ordinality="number")
        .render_derived("each")
    )
    query = (
        select(each.c.number)
        .where(filters.compile(node, lambda key: each.c.value[key]))
        .order_by(each.c.number)
    )
    async with control.connect() as connection:
        found = list((await connection.execute(query)).scalars())
    assert found == [number for number, row in enumerate(rows, 1) if evaluate(node, row)]


PLAIN = Table(
    "plain",
    MetaData(),
    Column("a", Text),
    Column("b", BigInteger),
    Column("c", Boolean),
    prefixes=["temporary"],
)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "a": TEXTS | st.sampled_from(["A", "b"]) | st.none(),
                "b": st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1) | st.none(),
                "c": st.booleans() | st.none(),
            }
        ),
        min_size=1,
        max_size=6,
    ),
    raw=any_filter(SCALARS),
)
async def test_a_filter_over_columns_means_the_same(
    control: AsyncEngine, rows: list[dict[str, Any]], raw: dict[str, Any]
) -> None:
    named = {"ключ": "b", "x y": "c", "0": "a", "a'\"\\b": "b"}
    node = filters.parse(raw)
    async with control.connect() as connection:
        await connection.run_sync(PLAIN.create)
        await connection.execute(insert(PLAIN), rows)
        query = select(PLAIN).where(filters.compile(node, lambda key: PLAIN.c[named.get(key, key)]))
        found = [dict(row) for row in (await connection.execute(query)).mappings()]
        await connection.rollback()
    by_key = [row | {key: row[name] for key, name in named.items()} for row in rows]
    expected = [row for row, keyed in zip(rows, by_key, strict=True) if evaluate(node, keyed)]
    assert sorted(map(_sorted, found)) == sorted(map(_sorted, expected))


def _sorted(row: dict[str, Any]) -> str:
    return repr(sorted(row.items()))


async def test_a_time_is_compared_by_its_moment(control: AsyncEngine) -> None:
    at = literal(datetime(2026, 5, 1, 12, tzinfo=UTC), DateTime(True))

    async def holds(comparator: str, value: str) -> bool:
        node = filters.parse({"type": comparator, "key": "at", "value": value})
        async with control.connect() as connection:
            return bool(await connection.scalar(select(filters.compile(node, lambda _: at))))

    assert await holds("eq", "2026-05-01T14:00:00+02:00")
    assert await holds("gt", "2026-05-01T11:59:59.999Z")
    assert not await holds("lt", "2026-05-01T12:00:00Z")
