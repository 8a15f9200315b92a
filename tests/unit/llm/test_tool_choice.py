"""What a request lets the model call."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_server.errors import InvalidInput
from mcp_server.llm.tool_choice import read_tool_choice


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


TOOLS = [tool("a"), {"type": "custom", "custom": {"name": "c"}}, tool("b")]


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        (None, "auto", ["a", "b"]),
        ("auto", "auto", ["a", "b"]),
        ("none", "none", []),
        ("required", "required", ["a", "b"]),
        ({"type": "function", "function": {"name": "b"}}, "required", ["b"]),
        ({"type": "function", "name": "b"}, "required", ["b"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [tool("b")]},
            },
            "required",
            ["b"],
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [tool("a")]}, "auto", ["a"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, "none", []),
    ],
)
def test_each_form_is_read(choice: Any, mode: str, names: list[str]) -> None:
    read = read_tool_choice({"tools": TOOLS, "tool_choice": choice})
    assert (read.mode, [function["name"] for function in read.functions]) == (mode, names)


def test_without_tools_there_is_nothing_to_choose() -> None:
    assert read_tool_choice({"tool_choice": "auto"}).mode == "none"
    assert read_tool_choice({"tools": None}).mode == "none"


@pytest.mark.parametrize(
    "choice",
    [
        "sometimes",
        7,
        ["a"],
        {"type": "function", "function": {"name": "unknown"}},
        {"type": "function"},
        {"type": "custom", "custom": {"name": "c"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "maybe", "tools": [tool("a")]}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("zz")]}},
    ],
)
def test_a_choice_that_does_not_fit_is_refused_by_name(choice: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_tool_choice({"tools": TOOLS, "tool_choice": choice})
    assert refused.value.param == "tool_choice"


def test_required_without_tools_is_refused() -> None:
    with pytest.raises(InvalidInput, match="needs at least one function"):
        read_tool_choice({"tools": [], "tool_choice": "required"})
