"""The scripted model's rule for JSON schemas: what it makes is an instance, and always the same one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mcp_server.errors import InvalidInput
from mcp_server.llm.schema_instance import make_instance

NAMES = st.sampled_from(["a", "b", "c d", "é", "$ref", "~/"])
SMALL = st.integers(min_value=-20, max_value=20)


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.integers(0, 12))
    schema: dict[str, Any] = {"type": "string"}
    if draw(st.booleans()):
        schema["minLength"] = low
    if draw(st.booleans()):
        schema["maxLength"] = low + draw(st.integers(0, 8))
    return schema


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    low = draw(SMALL)
    high = low + draw(st.integers(2, 9))
    bounds = {"minimum": low, "maximum": high, "exclusiveMinimum": low, "exclusiveMaximum": high}
    for keyword in draw(st.sets(st.sampled_from(sorted(bounds)))):
        schema[keyword] = bounds[keyword]
    return schema


LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    strings(),
    numbers(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, {"type": ["integer", "null"]}]),
    st.lists(st.one_of(st.text(max_size=3), SMALL), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
    SMALL.map(lambda value: {"const": value}),
    SMALL.map(lambda value: {"type": "integer", "default": value}),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    properties = st.dictionaries(NAMES, inner, max_size=3)
    objects = properties.flatmap(
        lambda own: st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.just(own),
                "required": st.lists(st.sampled_from([*own, "other"]), unique=True),
            }
        )
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array"), "items": inner, "minItems": st.integers(0, 3)}
    )
    tuples = st.lists(inner, min_size=1, max_size=2).map(
        lambda ahead: {"type": "array", "prefixItems": ahead, "minItems": len(ahead)}
    )
    unions = st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda branches: st.just({"anyOf": branches})
    )
    joined = objects.map(lambda one: {"allOf": [one, {"required": ["and"]}]})
    return st.one_of(objects, arrays, tuples, unions, joined)


SCHEMAS = st.recursive(LEAVES, containers, max_leaves=8)


@given(SCHEMAS, st.text(max_size=12))
def test_what_it_makes_fits_the_schema(schema: dict[str, Any], text: str) -> None:
    Draft202012Validator(schema).validate(make_instance(schema, text))


@given(SCHEMAS, st.text(max_size=12))
def test_it_makes_the_same_twice(schema: dict[str, Any], text: str) -> None:
    assert make_instance(schema, text) == make_instance(schema, text)


@given(SCHEMAS, NAMES)
def test_a_reference_is_followed_by_its_escaped_name(schema: dict[str, Any], name: str) -> None:
    pointer = name.replace("~", "~0").replace("/", "~1").replace(" ", "%20")
    whole = {"type": "array", "minItems": 1, "items": {"$ref": f"#/$defs/{pointer}"}}
    made = make_instance({**whole, "$defs": {name: schema}}, "text")
    Draft202012Validator(schema).validate(made[0])


def test_only_required_properties_are_there() -> None:
    schema = {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["b"]}
    assert make_instance(schema, "hello") == {"b": "hello"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": 7, "default": 8}, 7),
        ({"type": "string", "default": "d", "enum": ["e"]}, "d"),
        ({"enum": ["first", "second"]}, "first"),
        ({"type": "string", "maxLength": 3}, "hel"),
        ({"type": "number", "minimum": 2.5}, 2.5),
        ({"type": "integer"}, 0),
        ({"type": "boolean"}, False),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
        ({"anyOf": [{"type": "integer", "minimum": 3}, {"type": "string"}]}, 3),
        ({"type": "integer", "minimum": 7, "multipleOf": 5}, 10),
        ({"type": "integer", "exclusiveMaximum": -3}, -4),
        (True, "hello"),
    ],
)
def test_the_rule_word_for_word(schema: object, expected: object) -> None:
    assert make_instance(schema, "hello") == expected


def test_a_recursive_schema_ends_where_it_may() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["next"],
    }
    schema = {"$ref": "#/$defs/node", "$defs": {"node": node}}
    assert make_instance(schema, "x") == {"next": None}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"allOf": [{"$ref": "#"}]},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**12},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.com/schema.json"},
        {"type": "object", "required": 5},
        {"type": "number", "minimum": "low"},
    ],
)
def test_a_schema_without_a_small_instance_is_refused(schema: object) -> None:
    with pytest.raises(InvalidInput):
        make_instance(schema, "x")
