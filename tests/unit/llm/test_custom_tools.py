"""Custom tools as functions: the text that goes in comes back out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.errors import InvalidInput
from mcp_server.llm.custom_tools import as_custom, as_functions

TOOL = {"type": "custom", "custom": {"name": "run", "description": "Runs code."}}


@given(st.text())
def test_an_input_survives_the_way_through_a_function(text: str) -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "run", "input": text}}
    request, names = as_functions(
        {"messages": [{"role": "assistant", "tool_calls": [call]}], "tools": [TOOL]}
    )
    (told,) = request["messages"][0]["tool_calls"]

    assert told["type"] == "function"
    assert as_custom(told, names) == call


def test_choices_of_custom_tools_become_choices_of_functions() -> None:
    chosen = {"type": "custom", "custom": {"name": "run"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [chosen]}}
    function = {"type": "function", "function": {"name": "run"}}

    one, _ = as_functions({"messages": [], "tools": [TOOL], "tool_choice": chosen})
    some, _ = as_functions({"messages": [], "tools": [TOOL], "tool_choice": allowed})

    assert one["tool_choice"] == function
    assert some["tool_choice"]["allowed_tools"]["tools"] == [function]


def test_a_request_without_custom_tools_stays_the_same_object() -> None:
    request: dict[str, Any] = {"messages": [], "tools": [{"type": "function", "function": {}}]}
    assert as_functions(request) == (request, frozenset())


def test_a_grammar_is_refused_by_its_place() -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a"}}
    tool = {"type": "custom", "custom": {"name": "run", "format": grammar}}
    with pytest.raises(InvalidInput) as caught:
        as_functions({"messages": [], "tools": [tool]})
    assert caught.value.param == "tools[0].custom.format"
