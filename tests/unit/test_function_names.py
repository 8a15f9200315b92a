"""Function names of MCP tools."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from mcp_server.function_names import function_name

ALLOWED = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")

tools = st.text(min_size=1, max_size=200)


@given(tools)
@example("a\n")
@example("é")
@example("x" * 65)
def test_every_name_becomes_one_that_openai_allows(tool: str) -> None:
    assert ALLOWED.fullmatch(function_name(tool))


@given(st.from_regex(ALLOWED, fullmatch=True))
def test_a_name_that_is_allowed_stays(tool: str) -> None:
    assert function_name(tool) == tool


@given(st.lists(tools, unique=True))
@example(["a.b", "a/b", "a_b", "a_b_0"])
@example(["x" * 64 + "1", "x" * 64 + "2"])
def test_no_two_tools_share_a_name(names: list[str]) -> None:
    assert len({function_name(name) for name in names}) == len(names)
