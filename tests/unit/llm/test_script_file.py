"""A script is checked before the server starts, and the complaint names the place."""

from __future__ import annotations

import json

import pytest

from mcp_server.errors import ConfigurationError
from mcp_server.llm.script_file import load_turns

GOOD = """
turns:
  - text: hello
  - tool_calls:
      - {name: kv_get, arguments: {key: färbe}}
      - {name: broken, arguments: '{"key": '}
      - {name: bare}
    delay_ms: 250
  - error: {status: 429, message: slow down}
"""


def test_every_kind_of_turn_is_read() -> None:
    said, called, failed = load_turns(GOOD, "script.yaml")
    assert said.text == "hello"
    assert said.delay_seconds == 0
    assert [call.name for call in called.tool_calls] == ["kv_get", "broken", "bare"]
    assert json.loads(called.tool_calls[0].arguments) == {"key": "färbe"}
    assert called.tool_calls[1].arguments == '{"key": '
    assert called.tool_calls[2].arguments == "{}"
    assert called.delay_seconds == 0.25
    assert failed.error is not None
    assert (failed.error.status, failed.error.message) == (429, "slow down")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("turns: [", "not YAML"),
        ("", "must be a mapping of turns"),
        ("- text: a", "must be a mapping of turns"),
        ("turns: []", "at least one turn"),
        ("turns: {}", "at least one turn"),
        ("turn: [{text: a}]", "unknown key 'turn'"),
        ("turns: [{txt: a}]", r"turns\[0\] holds the unknown key 'txt'"),
        ("turns: [{text: a}, {}]", r"turns\[1\] must hold exactly one of"),
        ("turns: [{text: a, error: {status: 500, message: m}}]", "exactly one of"),
        ("turns: [{text: 42}]", r"turns\[0\]\.text must be a string"),
        ("turns: [{text: a, delay_ms: soon}]", "delay_ms must be a number"),
        ("turns: [{text: a, delay_ms: -1}]", "delay_ms must be a number"),
        ("turns: [{text: a, delay_ms: true}]", "delay_ms must be a number"),
        ("turns: [{text: a, delay_ms: .nan}]", "delay_ms must be a number"),
        ("turns: [{tool_calls: []}]", "at least one call"),
        ("turns: [{tool_calls: [{arguments: {}}]}]", r"tool_calls\[0\]\.name must be a string"),
        ("turns: [{tool_calls: [{name: a, args: {}}]}]", "unknown key 'args'"),
        ("turns: [{tool_calls: [{name: a, arguments: [1]}]}]", "arguments must be a mapping"),
        ("turns: [{tool_calls: [{name: a, arguments: {d: 2026-01-01}}]}]", "no JSON form"),
        ("turns: [{error: {status: 200, message: m}}]", "from 400 to 599"),
        ("turns: [{error: {status: 500}}]", r"error\.message must be a string"),
        ("turns: [{error: {status: 500, message: m, code: c}}]", "unknown key 'code'"),
    ],
)
def test_a_mistake_is_named(content: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        load_turns(content, "script.yaml")
    assert str(refused.value).startswith("script.yaml")
    assert "\n" not in str(refused.value)
