"""Reading and removing the opt-in of a chat request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_facade.translate.mcp_opt_in import (
    ToolFilter,
    client_functions,
    function_choice,
    select_tools,
    without_opt_in,
)

ISTHMUS = {"type": "mcp", "server_label": "isthmus"}

names = st.sampled_from(["kv_get", "kv_set", "sql_query", "weather"])
functions = names.map(lambda name: {"type": "function", "function": {"name": name}})
customs = names.map(lambda name: {"type": "custom", "custom": {"name": name}})
opt_ins = st.fixed_dictionaries(
    {"type": st.just("mcp"), "server_label": st.just("isthmus")},
    optional={
        "require_approval": st.sampled_from([None, "never"]),
        "allowed_tools": st.one_of(
            st.none(),
            st.lists(names),
            st.fixed_dictionaries(
                {}, optional={"tool_names": st.lists(names), "read_only": st.booleans()}
            ),
        ),
    },
)
bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.just([])},
    optional={
        "tools": st.lists(st.one_of(functions, customs, opt_ins)),
        "metadata": st.dictionaries(
            st.sampled_from(["a", "b", "mcp_servers"]), st.sampled_from(["", "isthmus"])
        ),
        "top_k": st.integers(),
    },
)


@given(bodies)
def test_what_is_left_holds_everything_but_the_opt_in(body: dict[str, Any]) -> None:
    before = repr(body)
    plain = without_opt_in(body)

    assert repr(body) == before, "the request belongs to the caller"
    assert plain.get("tools", []) == [t for t in body.get("tools", []) if t["type"] != "mcp"]
    kept = {k: v for k, v in body.get("metadata", {}).items() if k != "mcp_servers"}
    assert plain.get("metadata", {}) == kept
    others = {"model", "messages", "top_k"}
    assert {k: plain[k] for k in others & plain.keys()} == {
        k: body[k] for k in others & body.keys()
    }
    assert plain.get("tools") != []
    assert select_tools(plain, ()) is None
    assert without_opt_in(plain) == plain


@given(bodies, names, st.booleans())
def test_a_selection_admits_what_any_of_its_filters_admits(
    body: dict[str, Any], name: str, read_only: bool
) -> None:
    selection = select_tools(body, ())
    asked = [tool for tool in body.get("tools", []) if tool["type"] == "mcp"]
    by_metadata = body.get("metadata", {}).get("mcp_servers") == "isthmus"

    assert (selection is not None) == bool(asked or by_metadata)
    if selection is not None:
        expected = by_metadata or any(
            _admits(tool.get("allowed_tools"), name, read_only) for tool in asked
        )
        assert selection.admits(name, read_only) == expected


def _admits(allowed: Any, name: str, read_only: bool) -> bool:
    if allowed is None:
        return True
    if isinstance(allowed, list):
        return name in allowed
    wanted = allowed.get("tool_names", [name])
    return name in wanted and allowed.get("read_only", read_only) == read_only


def test_the_operators_default_counts_only_without_an_own_word() -> None:
    body = {"tools": [{**ISTHMUS, "allowed_tools": ["kv_get"]}]}

    assert select_tools({}, ("isthmus",)) is not None
    assert select_tools({"metadata": {"mcp_servers": ""}}, ("isthmus",)) is None
    narrow = select_tools(body, ("isthmus",))
    assert narrow is not None
    assert narrow.filters == (ToolFilter("tools[0]", frozenset({"kv_get"})),)


@pytest.mark.parametrize("body", [{"n": 2}, {"logprobs": True}])
def test_the_operators_default_never_breaks_a_chat_that_cannot_have_tools(body: Any) -> None:
    assert select_tools(body, ("isthmus",)) is None


@given(st.lists(st.one_of(functions, customs)))
def test_the_clients_functions_are_known_by_name(tools: list[Any]) -> None:
    expected = {tool[tool["type"]]["name"] for tool in tools}

    assert client_functions({"tools": tools}) == expected


@pytest.mark.parametrize(
    "choice", [None, "auto", "none", {"type": "function", "function": {"name": "f"}}]
)
def test_another_choice_stays_as_it_is(choice: Any) -> None:
    body = {"tool_choice": choice}

    assert function_choice(body) is body
