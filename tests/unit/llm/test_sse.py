"""Events come out the same however the network cuts the stream."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.llm.sse import EventParser, LineTooLongError

PAYLOADS = st.lists(
    st.lists(
        st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1),
        min_size=1,
        max_size=2,
    ),
    max_size=4,
)
NOISE = st.sampled_from([": ping", "event: chunk", "id: 7", "retry: 5", "data-like: x", ":"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    space = draw(st.sampled_from(["", " "]))
    text = draw(st.sampled_from(["", "\ufeff"]))
    expected: list[bytes] = []
    for payload in draw(PAYLOADS):
        lines = [f"data:{space}{line}" for line in payload]
        lines.insert(draw(st.integers(0, len(lines))), draw(NOISE))
        text += "".join(line + end for line in lines) + end
        # One space after the colon belongs to the format, whoever wrote it.
        values = [line if space else line.removeprefix(" ") for line in payload]
        expected.append("\n".join(values).encode())
    return text.encode(), expected


@given(streams(), st.lists(st.integers(0, 400), max_size=8))
def test_a_cut_changes_nothing(stream: tuple[bytes, list[bytes]], cuts: list[int]) -> None:
    sent, expected = stream
    borders = sorted({0, *(cut for cut in cuts if cut < len(sent)), len(sent)})
    parser = EventParser()
    events: list[bytes] = []
    for start, end in itertools.pairwise(borders):
        events += parser.feed(sent[start:end])
    assert events == expected


def test_the_last_event_may_lack_its_blank_line() -> None:
    parser = EventParser()
    assert parser.feed(b"data: [DONE]") == []
    assert parser.finish() == [b"[DONE]"]


def test_an_endless_line_is_refused() -> None:
    parser = EventParser()
    parser.feed(b"x" * 16 * 1024 * 1024)
    with pytest.raises(LineTooLongError):
        parser.feed(b"x")
