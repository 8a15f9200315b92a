"""Loop events as chunks: however the text is cut, the client sees one well-formed message."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp_server.agents.events import (
    Finished,
    LoopEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnFinished,
)
from mcp_server.llm.wire import Frame, usage_of
from openai_facade.translate.loop_answer import LoopChunks, Trace, loop_completion

USAGE = usage_of(3, 4)

text_deltas = st.builds(
    TextDelta,
    st.text(),
    st.integers(1, 3),
    st.sampled_from(["content", "refusal", "reasoning_content"]),
)
tool_runs = st.tuples(st.sampled_from(["c1", "c2"]), st.text(max_size=5), st.booleans()).map(
    lambda t: [ToolStarted(t[0], "tool", t[1], 1), ToolFinished(t[0], "tool", "out", t[2], 1)]
)
turn_ends = st.just(TurnFinished(1, "tool_calls", USAGE))
client_calls = st.lists(
    st.builds(
        lambda name, arguments: {
            "id": f"call_{name}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        },
        st.sampled_from(["f", "g"]),
        st.text(),
    ),
    max_size=3,
)


@st.composite
def loops(draw: st.DrawFn) -> list[LoopEvent]:
    """Any sequence of events that a loop may tell, up to its end."""
    parts = draw(
        st.lists(st.one_of(text_deltas.map(lambda d: [d]), tool_runs, turn_ends.map(lambda e: [e])))
    )
    events: list[LoopEvent] = [event for part in parts for event in part]
    calls = draw(client_calls)
    texts: dict[str, str] = {}
    for event in events:
        if isinstance(event, TextDelta):
            texts[event.field] = texts.get(event.field, "") + event.text
    message: dict[str, Any] = {"role": "assistant", "content": None if calls else "", **texts}
    if calls:
        message["tool_calls"] = calls
    reason = "tool_calls" if calls else "stop"
    return [*events, Finished(message, reason, USAGE, calls)]


def merged(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the deltas together as the SDKs do: strings are joined, calls are found by index."""
    message: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            for name, value in choice["delta"].items():
                if name != "tool_calls":
                    message[name] = (message.get(name) or "") + value if value is not None else None
            for delta in choice["delta"].get("tool_calls", ()):
                call = calls.setdefault(delta["index"], {"function": {"name": "", "arguments": ""}})
                call.update({k: delta[k] for k in ("id", "type") if k in delta})
                for part in ("name", "arguments"):
                    call["function"][part] += delta["function"].get(part, "")
    return message | ({"tool_calls": [calls[i] for i in sorted(calls)]} if calls else {})


@given(loops(), st.booleans())
def test_the_chunks_say_what_the_whole_answer_says(
    events: list[LoopEvent], include_usage: bool
) -> None:
    frame = Frame("m", include_usage)
    stream, whole = LoopChunks(frame, Trace(str)), Trace(str)
    chunks = [chunk for event in events for chunk in stream.feed(event)]
    for event in events:
        whole.note(event)
    finished = events[-1]
    assert isinstance(finished, Finished)
    answer = loop_completion(frame, whole, finished)

    expected = {k: v for k, v in answer["choices"][0]["message"].items() if k != "refusal" or v}
    got = merged(chunks)
    if expected.get("content") in (None, ""):
        assert not got.pop("content")
        expected.pop("content")
    assert {k: v for k, v in got.items() if v != ""} == {
        k: v for k, v in expected.items() if v != ""
    }

    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert [c["delta"]["role"] for c in choices if "role" in c["delta"]] == ["assistant"]
    assert "role" in choices[0]["delta"]
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == [finished.finish_reason]
    assert choices[-1]["finish_reason"]
    assert {(c["id"], c["created"], c["model"]) for c in chunks} == {(frame.id, frame.created, "m")}
    assert [c for c in chunks if "isthmus" in c] == [c for c in chunks if c["choices"]][-1:]
    assert answer["isthmus"] == next(c["isthmus"] for c in chunks if "isthmus" in c)
    assert (chunks[-1]["choices"] == []) == include_usage
    if include_usage:
        assert chunks[-1]["usage"] == USAGE


@given(loops())
def test_only_calls_that_the_server_ran_are_told(events: list[LoopEvent]) -> None:
    trace = Trace(lambda name: f"real {name}", run="run_1")
    for event in events:
        trace.note(event)

    finished = events[-1]
    assert isinstance(finished, Finished)
    told = trace.extension(finished)["isthmus"]
    ran = [event for event in events if isinstance(event, ToolFinished)]
    assert [call["is_error"] for call in told["tool_calls"]] == [event.is_error for event in ran]
    assert all(call["name"] == "real tool" for call in told["tool_calls"])
    assert told["run"] == "run_1"
    assert trace.has_effects == bool(ran)
