"""Vectors as base64."""

from __future__ import annotations

import array
import base64
import sys

from hypothesis import given
from hypothesis import strategies as st

from openai_facade.translate.vectors import encode_base64


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_the_numbers_come_back_as_the_sdk_reads_them(vector: list[float]) -> None:
    numbers = array.array("f", base64.b64decode(encode_base64(vector)))
    if sys.byteorder == "big":
        numbers.byteswap()

    assert numbers.tolist() == vector
