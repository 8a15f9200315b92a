"""Whatever happens in a loop, the stream tells it in order, and folding the stream gives the response."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server.agents.events import (
    CallDelta,
    Finished,
    LoopEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnIncomplete,
)
from openai_facade.translate.response_calls import CallKind
from openai_facade.translate.response_events import ResponseEvents
from openai_facade.translate.response_fold import fold
from openai_facade.translate.response_object import new_response
from openai_facade.translate.response_search import Sources
from tests.traffic.check import faults

EVENT = "/components/schemas/ResponseStreamEvent"
KINDS = {
    "look": CallKind("function"),
    "patch": CallKind("custom"),
    "kv_get": CallKind("mcp", "isthmus", "kv_get"),
    "kv_set": CallKind("approval", "isthmus", "kv_set"),
    "file_search": CallKind("search"),
}
RESULT = {"file_id": "file-1", "filename": "a.txt", "score": 0.5, "text": "x", "attributes": {}}
WORDS = st.text(alphabet="ab 【1】\n", max_size=6).filter(bool)
FIELDS = st.sampled_from(["content", "refusal", "reasoning_content", "reasoning"])


@st.composite
def turns(draw: st.DrawFn) -> list[LoopEvent | list[dict[str, Any]]]:
    """One turn of a loop, as it tells it; a list among the events is what a search found."""
    turn = draw(st.integers(1, 9))
    told: list[Any] = [
        TextDelta(text, turn, field)
        for text, field in draw(st.lists(st.tuples(WORDS, FIELDS), max_size=5))
    ]
    if draw(st.booleans()):
        made = draw(st.lists(st.sampled_from([*KINDS, "unknown"]), max_size=4))
        calls = [(f"call_{draw(st.uuids()).hex}", name) for name in made]
        arguments = json.dumps({"query": "x", "input": "y"})
        for call, name in calls:
            cut = draw(st.integers(0, len(arguments)))
            told += [
                CallDelta(call, name, part, turn) for part in (arguments[:cut], arguments[cut:])
            ]
        how = draw(st.sampled_from(["tool_calls", "length", "broken"]))
        if how == "broken":
            return [*told, TurnIncomplete(turn)]
        told.append(TurnFinished(turn, how, {}))
        for call, name in calls if how == "tool_calls" else ():
            if name not in KINDS or KINDS[name].on_server:
                told.append(ToolStarted(call, name, arguments, turn))
                if name == "file_search":
                    told.append([RESULT])
                told.append(ToolFinished(call, name, "result", draw(st.booleans()), turn))
    elif draw(st.booleans()):
        told.append(TurnFinished(turn, "stop", {}))
    return told


def builder(**more: Any) -> ResponseEvents:
    body = {"model": "default", "input": "x", "tools": [{"type": "function", "name": "look"}]}
    response = new_response(body, response="resp_1", created_at=1)
    return ResponseEvents(response, KINDS, Sources(), show_results=True, **more)


def tell(events: ResponseEvents, told: list[Any]) -> list[dict[str, Any]]:
    stream: list[dict[str, Any]] = []
    for happened in told:
        if isinstance(happened, list):
            events.found(happened)
        else:
            stream += events.feed(happened)
    return stream


@settings(max_examples=25, deadline=None)
@given(st.lists(turns(), max_size=3), st.sampled_from(["stop", "length", "content_filter", "fail"]))
def test_folding_the_stream_gives_the_response(loop: list[list[Any]], reason: str) -> None:
    events = builder()
    stream = events.begin()
    stream += events.listed("isthmus", [{"name": "kv_get", "input_schema": {}}])
    for turn in loop:
        stream += tell(events, turn)
    if reason == "fail":
        stream += events.fail("server_error", "It broke.")
    else:
        stream += events.finish(Finished({}, reason, {}, []), at=2)
    folded = fold(stream)

    assert folded["output"] == events.response["output"]
    stream.append(events.last())
    assert fold(stream) == events.response
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    assert not [item for item in folded["output"] if item.get("status") == "in_progress"]
    ids = [item["id"] for item in folded["output"]]
    assert len(ids) == len(set(ids))
    for event in stream:
        assert list(faults(EVENT, json.loads(json.dumps(event)))) == [], event["type"]


@settings(max_examples=20, deadline=None)
@given(st.lists(turns(), min_size=1, max_size=2), st.data())
def test_a_stream_goes_on_after_any_event(loop: list[list[Any]], data: st.DataObject) -> None:
    events = builder()
    stream = events.begin()
    for turn in loop:
        stream += tell(events, turn)
    kept = stream[: data.draw(st.integers(2, len(stream)))]

    later = ResponseEvents(fold(kept), KINDS, Sources(), sequence=len(kept))
    kept += later.resume()
    assert not [item for item in fold(kept)["output"] if item.get("status") == "in_progress"]
    kept += later.feed(TextDelta("on", 1))
    kept += later.finish(Finished({}, "stop", {}, []), at=2)

    assert fold(kept)["output"] == later.response["output"]
    assert later.response["output"][-1]["content"][0]["text"] == "on"
    assert [event["sequence_number"] for event in kept] == list(range(len(kept)))


def test_an_mcp_call_is_told_in_the_order_that_clients_expect() -> None:
    events = builder()
    told = [
        CallDelta("c1", "kv_get", "{}", 1),
        TurnFinished(1, "tool_calls", {}),
        ToolStarted("c1", "kv_get", "{}", 1),
        ToolFinished("c1", "kv_get", "found", False, 1),
        TextDelta("done", 2),
    ]

    names = [event["type"].removeprefix("response.") for event in tell(events, told)]

    assert names == [
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
    ]


def test_a_passage_that_the_text_names_is_cited() -> None:
    sources = Sources()
    sources.show([RESULT, RESULT | {"file_id": "file-2", "filename": "b.txt"}])
    response = new_response({"model": "m"}, response="resp_1", created_at=1)
    events = ResponseEvents(response, KINDS, sources)
    tell(events, [TextDelta("So 【2】 and 【1†a.txt】, not 【7】.", 1)])
    events.finish(Finished({}, "stop", {}, []), at=2)

    (part,) = events.response["output"][0]["content"]
    assert part["annotations"] == [
        {"type": "file_citation", "file_id": "file-2", "filename": "b.txt", "index": 3},
        {"type": "file_citation", "file_id": "file-1", "filename": "a.txt", "index": 11},
    ]


def test_the_error_event_has_both_forms() -> None:
    body = {"message": "no", "type": "server_error", "param": None, "code": "unavailable"}
    event = builder().error(body)

    assert event["error"] == body
    assert (event["message"], event["code"], event["param"]) == ("no", "unavailable", None)
    assert list(faults(EVENT, event)) == []
