"""Values between JSON and the database: as parameters, and as results."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.services.sql import SqlService

# PostgreSQL stores no NUL, and no half of a surrogate pair.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


async def value(sql: SqlService, who: Principal, expression: str, *params: Any) -> Any:
    return (await sql.query(who, f"select {expression}", list(params)))["rows"][0][0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("9007199254740993::int8", 9007199254740993),
        ("1.50::numeric", "1.50"),
        ("'NaN'::numeric", "NaN"),
        ("1.5::float8", 1.5),
        ("'NaN'::float8", "NaN"),
        ("'-Infinity'::float4", "-Infinity"),
        ("true", True),
        ("null::int", None),
        ("'2026-01-02 03:04:05.6+02'::timestamptz", "2026-01-02T01:04:05.6+00:00"),
        ("'2026-01-02 03:04:05'::timestamp", "2026-01-02T03:04:05"),
        ("'infinity'::timestamptz", "infinity"),
        ("'0044-03-15 BC'::date", "0044-03-15 BC"),
        ("'2026-01-02'::date", "2026-01-02"),
        ("'03:04:05+02'::timetz", "03:04:05+02"),
        ("'1 year 2 days 3 hours'::interval", "P1Y2DT3H"),
        ("'\\x00ff'::bytea", "\\x00ff"),
        ("'{\"a\": [1, null, 1e400]}'::json", {"a": [1, None, "1e400"]}),
        ("'[1, \"x\"]'::jsonb", [1, "x"]),
        ("'[0.1, 1.10, 12345678901234567890]'::jsonb", [0.1, 1.1, 12345678901234567890]),
        ("'[0.12345678901234567890123]'::jsonb", ["0.12345678901234567890123"]),
        ("'[9007199254740993.5, 1e-400]'::jsonb", ["9007199254740993.5", "0." + "0" * 399 + "1"]),
        ("'{\"p\": 123456789012.123456}'::json", {"p": "123456789012.123456"}),
        ("1e-20::numeric", "0.00000000000000000001"),
        ("'Infinity'::numeric", "Infinity"),
        ("'infinity'::date", "infinity"),
        ("'24:00:00'::time", "24:00:00"),
        ("array['2026-01-02 03:04+00'::timestamptz]", ["2026-01-02T03:04:00+00:00"]),
        ("array[1.5::numeric, 'NaN']", ["1.5", "NaN"]),
        ("array[]::text[]", []),
        ("tstzrange('2026-01-02 00:00+00', null)", '["2026-01-02 00:00:00+00",)'),
        ("'{[1,3),[5,7)}'::int4multirange", "{[1,3),[5,7)}"),
        ("numrange(null, 1.5)", "(,1.5)"),
        ("array['\\x00ff'::bytea]", ["\\x00ff"]),
        ("'P1M-1D'::interval", "P1M-1D"),
        ("'null'::jsonb", None),
        ("array[1, null, 3]", [1, None, 3]),
        ("array[['a,b', 'c\"d'], ['e\\f', '']]", [["a,b", 'c"d'], ["e\\f", ""]]),
        ("array['NULL', null, '{}']", ["NULL", None, "{}"]),
        ("'{}'::int[]", []),
        ("'[2:3]={5,6}'::int[]", [5, 6]),
        ("array['{\"a\": 1}'::jsonb]", [{"a": 1}]),
        ("array[true, false]", [True, False]),
        ("array['(1,2),(3,4)'::box, '(5,6),(7,8)']", ["(3,4),(1,2)", "(7,8),(5,6)"]),
        ("int4range(1, 5)", "[1,5)"),
        ("row(1, 'a b')", '(1,"a b")'),
        ("'0b1a3c3e-0000-4000-8000-000000000000'::uuid", "0b1a3c3e-0000-4000-8000-000000000000"),
        ("'192.168.0.1'::inet", "192.168.0.1"),
        ("'a'::\"char\"", "a"),
        ("''::text", ""),
    ],
)
async def test_values_come_as_json(
    sql: SqlService, principal: Principal, expression: str, expected: Any
) -> None:
    back = await value(sql, principal, expression)
    assert back == expected
    assert type(back) is type(expected)


@pytest.mark.parametrize(
    ("type_", "given_", "expected"),
    [
        ("int", 5, 5),
        ("int", 5.0, 5),
        ("int", "5", 5),
        ("int8", 2**60, 2**60),
        ("numeric", 1.25, "1.25"),
        ("numeric", "1.250", "1.250"),
        ("float8", 1e300, 1e300),
        ("bool", True, True),
        ("bool", "yes", True),
        ("text", 5, "5"),
        ("text", True, "true"),
        ("date", "2026-01-02", "2026-01-02"),
        ("timestamptz", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00"),
        ("interval", "P1DT2H", "P1DT2H"),
        ("uuid", "0B1A3C3E000040008000000000000000", "0b1a3c3e-0000-4000-8000-000000000000"),
        ("bytea", "\\x0102", "\\x0102"),
        ("jsonb", {"a": [1, "ü", None]}, {"a": [1, "ü", None]}),
        ("jsonb", [1, 2], [1, 2]),
        ("jsonb", 5, 5),
        ("jsonb", True, True),
        ("jsonb", '{"a": 1}', {"a": 1}),
        ("jsonb", '"text"', "text"),
        ("int[]", [1, None, 3], [1, None, 3]),
        ("int[]", "{1,2}", [1, 2]),
        ("int[]", [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        (
            "text[]",
            ['a"b', "c\\d", "", "NULL", "{x}", None],
            ['a"b', "c\\d", "", "NULL", "{x}", None],
        ),
        ("jsonb[]", [{"a": 1}, [2]], [{"a": 1}, [2]]),
        ("int4range", "[1,3)", "[1,3)"),
        ("text", None, None),
    ],
)
async def test_params_are_json_or_postgresqls_text(
    sql: SqlService, principal: Principal, type_: str, given_: Any, expected: Any
) -> None:
    assert await value(sql, principal, f"$1::{type_}", given_) == expected


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=TEXT, json_=JSON, items=st.lists(TEXT | st.none(), max_size=5))
async def test_any_value_comes_back_as_it_went(
    sql: SqlService, principal: Principal, text: str, json_: Any, items: list[str | None]
) -> None:
    # A JSON string as a parameter is PostgreSQL's text form, so as jsonb it goes in encoded.
    document = json.dumps(json_) if isinstance(json_, str) else json_
    back = await sql.query(
        principal, "select $1::text, $2::jsonb, $3::text[]", [text, document, items]
    )
    assert back["rows"] == [[text, json_, items]]


async def test_own_types_travel_as_text(sql: SqlService, principal: Principal) -> None:
    await sql.execute(principal, "create type mood as enum ('sad', 'ok')")
    await sql.execute(principal, "create type pair as (a int, b text)")
    await sql.execute(principal, "create domain doc as jsonb")
    await sql.execute(principal, "create table t (m mood, ms mood[], p pair, d doc)")
    row = ["ok", ["sad", None], "(1,x)", {"k": 1}]
    back = await sql.execute(principal, "insert into t values ($1, $2, $3, $4) returning *", row)
    assert back["rows"] == [row]
    assert [column["type"] for column in back["columns"]] == ["mood", "mood[]", "pair", "jsonb"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, [1], {"a": 1}])
async def test_a_param_that_does_not_fit_is_named(
    sql: SqlService, principal: Principal, bad: Any
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await value(sql, principal, "$1::int", bad)
    assert caught.value.param == "params"


async def test_the_number_of_params_must_fit(sql: SqlService, principal: Principal) -> None:
    for params in ([], [1, 2]):
        with pytest.raises(InvalidInput, match="takes 1 and"):
            await sql.query(principal, "select $1::int", params)
