"""The scripted model does what the contract says, word for word."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server.errors import ConfigurationError, InvalidInput
from mcp_server.llm import Chunk, UpstreamError
from mcp_server.llm.scripted import ScriptedModel, open_scripted

PARAMETERS = {
    "type": "object",
    "properties": {"key": {"type": "string", "maxLength": 4}, "limit": {"type": "integer"}},
    "required": ["key"],
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS}}
    for name in ("first", "second")
]
RESULT = [
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
    {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "the result"}]},
]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def said(messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    answer = await ScriptedModel().complete({"model": "scripted", "messages": messages, **fields})
    return answer["choices"][0]["message"]


async def called(messages: list[dict[str, Any]], **fields: Any) -> list[tuple[str, Any]]:
    message = await said(messages, **fields)
    functions = [call["function"] for call in message.get("tool_calls", [])]
    return [(each["name"], json.loads(each["arguments"])) for each in functions]


async def streamed(model: ScriptedModel, request: dict[str, Any]) -> list[Chunk]:
    async with aclosing(model.stream(request)) as chunks:
        return [chunk async for chunk in chunks]


async def test_it_repeats_the_last_user_message() -> None:
    assert (await said([user("one"), user("two  words ")]))["content"] == "two  words "
    assert (await said([{"role": "system", "content": "no"}]))["content"] == ""


async def test_it_calls_the_first_tool_with_required_arguments_only() -> None:
    assert await called([user("hello")], tools=TOOLS) == [("first", {"key": "hell"})]


async def test_it_calls_the_tool_that_is_named() -> None:
    choice = {"type": "function", "function": {"name": "second"}}
    assert await called([user("x")], tools=TOOLS, tool_choice=choice) == [("second", {"key": "x"})]


async def test_it_calls_nothing_when_told_so() -> None:
    assert (await said([user("x")], tools=TOOLS, tool_choice="none"))["content"] == "x"


async def test_it_answers_with_the_result_of_the_tool() -> None:
    assert (await said([user("x"), *RESULT], tools=TOOLS))["content"] == "the result"


async def test_it_calls_again_after_the_next_user_message() -> None:
    assert await called([user("x"), *RESULT, user("y")], tools=TOOLS) == [("first", {"key": "y"})]
    assert (await said([user("x"), *RESULT, user("y")]))["content"] == "y"


async def test_an_unknown_tool_is_refused() -> None:
    with pytest.raises(InvalidInput):
        await said([user("x")], tools=TOOLS, tool_choice={"type": "function", "name": "third"})


async def test_it_fills_in_a_json_schema() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": PARAMETERS}}
    assert json.loads((await said([user("hello")], response_format=wanted))["content"]) == {
        "key": "hell"
    }
    plain = (await said([user("hello")], response_format={"type": "json_object"}))["content"]
    assert json.loads(plain) == {}
    assert (await said([user("hello")], response_format={"type": "text"}))["content"] == "hello"


async def test_it_streams_word_by_word_and_counts_words() -> None:
    request = {
        "model": "scripted",
        "messages": [{"role": "system", "content": "be kind"}, user(" one two\nthree ")],
        "stream_options": {"include_usage": True},
    }
    *chunks, last = await streamed(ScriptedModel(), request)
    pieces = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert pieces == ["", " one", " two", "\nthree", " ", None]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["stop"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


SCRIPT = """
turns:
  - tool_calls: [{name: kv_get, arguments: {key: a}}, {name: kv_get, arguments: {key: b}}]
  - error: {status: 429, message: slow down}
  - text: the end
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.yaml"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


async def test_turn_i_answers_after_i_assistant_messages_and_the_last_repeats(script: Path) -> None:
    model = open_scripted(str(script))

    async def turn(count: int) -> dict[str, Any]:
        messages = [user("go"), *([{"role": "assistant", "content": "x"}] * count)]
        return (await model.complete({"messages": messages}))["choices"][0]

    first = await turn(0)
    assert first["finish_reason"] == "tool_calls"
    calls = first["message"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"])["key"] for call in calls] == ["a", "b"]
    assert calls[0]["id"] != calls[1]["id"]
    with pytest.raises(UpstreamError, match="slow down") as refused:
        await turn(1)
    assert (refused.value.status, refused.value.code) == (429, "limit_exceeded")
    assert (await turn(2))["message"]["content"] == "the end"
    assert (await turn(9))["message"]["content"] == "the end"


async def test_two_calls_are_streamed_with_their_own_index(script: Path) -> None:
    chunks = await streamed(open_scripted(str(script)), {"messages": [user("go")]})
    deltas = [
        call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    heads = [delta for delta in deltas if "id" in delta]
    assert [head["index"] for head in heads] == [0, 1]
    assert {delta["index"] for delta in deltas if "id" not in delta} == {0, 1}
    assert all("name" not in delta["function"] for delta in deltas if "id" not in delta)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_delay_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "slow.yaml"
    path.write_text("turns: [{text: late, delay_ms: 60000}]", encoding="utf-8")
    model = open_scripted(str(path))
    started = time.monotonic()
    with anyio.move_on_after(0.05) as scope:
        await model.complete({"messages": [user("go")]})
    assert scope.cancelled_caught
    assert time.monotonic() - started < 5


def test_a_missing_script_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ISTHMUS_LLM_URL: cannot read .*nowhere\.yaml"):
        open_scripted(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        open_scripted(str(tmp_path / "binary"))
