"""PostgreSQL's text form to JSON and back, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.errors import InvalidInput
from mcp_server.storage.sql.values import TEXT, PgType, decoder, encode

INT = PgType("integer", "int4")
TEXTS = PgType("text[]", "_text", TEXT)
INTS = PgType("integer[]", "_int4", INT)

NESTED = st.recursive(
    st.text() | st.none(), lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=20
).filter(lambda value: isinstance(value, list))


@given(NESTED)
def test_arrays_of_text_survive_the_round_trip(value: list[Any]) -> None:
    encoded = encode(value, TEXTS, "params[0]")
    assert encoded is not None
    assert decoder(TEXTS)(encoded) == value


@given(st.lists(st.integers() | st.none()))
def test_arrays_of_integers_survive_the_round_trip(value: list[int | None]) -> None:
    assert decoder(INTS)(encode(value, INTS, "params[0]") or "") == value


def test_json_that_python_cannot_hold_stays_text() -> None:
    json_ = PgType("jsonb", "jsonb")
    for text in ("[" * 100_000 + "]" * 100_000, "9" * 5000):
        assert decoder(json_)(text) == text


def test_an_error_names_the_param_and_the_mend() -> None:
    with pytest.raises(InvalidInput, match=r"params\[3\].*integer.*text form"):
        encode({"a": 1}, INT, "params[3]")
