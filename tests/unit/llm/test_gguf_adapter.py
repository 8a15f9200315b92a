"""What the embedded model is shown in place of tools, roles and schemas that it does not know."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_server.errors import InvalidInput
from mcp_server.llm import UpstreamError
from mcp_server.llm.gguf_messages import calls_since_request, context_of, render
from mcp_server.llm.gguf_ranking import nearest
from mcp_server.llm.gguf_schema import fitted

CALL = {"id": "c1", "type": "function", "function": {"name": "kv_get", "arguments": '{"key":"a"}'}}
CONVERSATION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "a?"}]},
        {"role": "developer", "content": "In English."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "blue"},
        {"role": "user", "content": "And why?"},
    ]
}  # fmt: skip


def test_a_conversation_becomes_alternating_texts() -> None:
    assert render(CONVERSATION, "here") == [
        {"role": "system", "content": "Be brief.\n\nIn English."},
        {"role": "user", "content": "What is\na?"},
        {"role": "assistant", "content": 'kv_get({"key":"a"})'},
        {"role": "user", "content": "Result of kv_get: blue\n\nAnd why?"},
    ]


def test_rendering_leaves_the_request_as_it_was() -> None:
    before = repr(CONVERSATION)
    render(CONVERSATION, "here")
    assert repr(CONVERSATION) == before


def test_only_calls_after_the_last_request_count() -> None:
    assert calls_since_request(CONVERSATION) == []
    until_result = {"messages": CONVERSATION["messages"][:-1]}
    assert calls_since_request(until_result) == [("kv_get", '{"key":"a"}')]


def test_the_context_is_what_was_said_besides_the_request() -> None:
    context = context_of(CONVERSATION, "here")
    assert "And why?" not in context
    assert context.endswith("tool: Result of kv_get: blue")


@pytest.mark.parametrize("messages", [None, [], "hello", [7]])
def test_no_message_is_refused(messages: Any) -> None:
    with pytest.raises(InvalidInput, match="at least one message"):
        render({"messages": messages}, "here")


def test_an_image_is_refused_as_the_callers_mistake() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(UpstreamError, match="text only") as refused:
        render({"messages": [{"role": "user", "content": [picture]}]}, "here")
    assert refused.value.status == 400


def function(name: str, description: str, **properties: str) -> dict[str, Any]:
    rules = {key: {"type": "string", "description": text} for key, text in properties.items()}
    return {"name": name, "description": description, "parameters": {"properties": rules}}


FUNCTIONS = [
    function("kv_get", "Read one value from the key-value store.", key="The key to read."),
    function("sql_query", "Run a read-only SQL query.", sql="One SELECT statement."),
    function("getWeather", "Get the current weather in a city.", city="The city."),
    function("查询天气", "查询一个城市的天气", city="城市"),
]


@pytest.mark.parametrize(
    ("request_text", "name"),
    [
        ("Read the keys please", "kv_get"),
        ("run SQL: select 1", "sql_query"),
        ("What's the weather in Oslo?", "getWeather"),
        ("北京的天气怎么样？", "查询天气"),
        ("Hello, who are you?", None),
        ("", None),
    ],
)
def test_the_function_that_shares_telling_words_is_nearest(
    request_text: str, name: str | None
) -> None:
    found = nearest(FUNCTIONS, request_text)
    assert (found and found["name"]) == name


def test_strings_and_arrays_are_bounded_and_references_inlined() -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"$ref": "#/$defs/name"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}},
            "code": {"type": "string", "pattern": "^[A-Z]+$"},
            "kind": {"type": "string", "enum": ["x"]},
        },
        "$defs": {"name": {"type": "string", "description": "d"}},
    }
    bounded, simple, anything = fitted(schema)
    assert bounded["properties"]["name"] == {"type": "string", "maxLength": 400}
    assert bounded["properties"]["tags"]["maxItems"] == 8
    assert bounded["properties"]["tags"]["items"]["maxLength"] == 5
    assert bounded["properties"]["code"] == {"type": "string", "pattern": "^[A-Z]+$"}
    assert bounded["properties"]["kind"] == {"type": "string", "enum": ["x"]}
    assert bounded["additionalProperties"] is False
    assert "$defs" not in bounded
    assert simple["properties"]["code"] == {"type": "string", "maxLength": 400}
    assert anything == {"type": "object"}


def test_a_recursive_or_exploding_schema_stays_small() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}
    bomb: dict[str, Any] = {
        "$ref": "#/$defs/d0",
        "$defs": {
            f"d{i}": {"properties": {k: {"$ref": f"#/$defs/d{i + 1}"} for k in "abcdefgh"}}
            for i in range(20)
        },
    }
    for schema in (tree, bomb, {"$ref": "#"}, {"$ref": "#/nowhere"}, 7):
        assert len(repr(fitted(schema))) < 400_000
