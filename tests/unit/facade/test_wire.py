"""Bodies of any shape: they fit, or the refusal names a field; nothing else ever happens."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from openai_facade.translate.mcp_opt_in import (
    client_functions,
    function_choice,
    require_one_answer,
    select_tools,
    without_opt_in,
)
from openai_facade.wire.chat import CHAT_FIELDS, check_chat
from openai_facade.wire.embeddings import check_embeddings
from openai_facade.wire.faults import InvalidRequest, json_type

WORDS = [
    "function", "custom", "mcp", "isthmus", "auto", "none", "text", "json_schema", "user", "tool",
    "assistant", "never", "float",
]  # fmt: skip
KEYS = [
    "type", "function", "custom", "name", "role", "content", "text", "tool_calls", "id",
    "arguments", "parameters", "server_label", "server_url", "allowed_tools", "tool_names",
    "read_only", "require_approval", "mcp_servers", "json_schema", "schema", "include_usage",
    "tool_call_id", "allowed_tools", "mode", "tools",
]  # fmt: skip
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(WORDS)
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
messages = st.lists(
    st.one_of(
        st.just({"role": "user", "content": "x"}),
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "tool", "system"])},
            optional={
                "content": json_values,
                "tool_calls": json_values,
                "tool_call_id": json_values,
            },
        ),
    ),
    min_size=1,
    max_size=3,
)
tools = st.lists(
    st.one_of(
        st.fixed_dictionaries({"type": st.sampled_from(["function", "custom", "mcp"])}, optional={
            "function": json_values, "custom": json_values, "server_label": json_values,
            "allowed_tools": json_values, "require_approval": json_values,
        }),
        json_values,
    ),
    max_size=3,
)  # fmt: skip
some_field = st.one_of(
    st.tuples(st.just("tools"), tools),
    st.tuples(st.just("messages"), messages),
    st.tuples(st.just("tool_choice"), json_values),
    st.tuples(st.just("metadata"), st.just({"mcp_servers": "isthmus"})),
    st.tuples(st.sampled_from([*CHAT_FIELDS, "model", "messages", "functions"]), json_values),
)


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a body that is right but for a few fields, so that every check is reached."""
    right = {"model": "default", "messages": [{"role": "user", "content": "x"}]}
    return right | dict(draw(st.lists(some_field, min_size=1, max_size=3)))


@settings(max_examples=500)
@given(chats())
def test_a_chat_body_fits_or_its_fault_is_named(body: dict[str, Any]) -> None:
    try:
        check_chat(body)
        select_tools(body, ())
        require_one_answer(body)
        plain = function_choice(without_opt_in(body))
        client_functions(plain)
    except InvalidRequest as fault:
        named(fault)


@settings(max_examples=400)
@given(
    st.fixed_dictionaries(
        {"model": st.just("default"), "input": json_values},
        optional={"encoding_format": json_values, "dimensions": json_values},
    )
)
def test_an_embedding_body_fits_or_its_fault_is_named(body: dict[str, Any]) -> None:
    try:
        request = check_embeddings(body)
    except InvalidRequest as fault:
        named(fault)
    else:
        assert request.inputs
        assert all(request.inputs)


def named(fault: InvalidRequest) -> None:
    """Check that a refusal says where and what, in one of OpenAI's words."""
    assert fault.param, "a refusal of a field without its name"
    assert fault.message
    assert fault.status == 400
    codes = {"missing_required_parameter", "unsupported_value"}
    assert fault.wire_code in codes or (fault.wire_code or "").startswith(
        ("invalid_", "empty_", "array_")
    )


@given(json_values)
def test_every_json_value_has_a_type_to_tell(value: Any) -> None:
    assert json_type(value).split()[0] in {"a", "an", "null"}
