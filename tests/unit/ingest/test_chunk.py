"""Chunks: end to end, bounded, and cut where a reader would cut."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import get_args

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_server.ingest.chunk import chunk
from mcp_server.ingest.measure import Tokens, Words, count_tokens
from mcp_server.ingest.parsed import Kind, Section

MAX_CHARACTERS = Words().most_characters

PARTS = st.sampled_from(
    (
        *" \n向量。，!”(é\u0301\u200d🙂",
        "\n\n",
        "\t\t",
        "word",
        ". ",
        ", ",
        "-----",
        "ไทย",
        "1.5",
        "supercalifragilistic" * 8,
    )
)
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    st.lists(st.tuples(PARTS, st.integers(1, 120)), max_size=30).map(
        lambda parts: "".join(part * times for part, times in parts)
    ),
)


def bodies(text: str) -> list[str]:
    return [text[span.start : span.end] for span in chunk(text)]


@given(TEXT)
@example("\n\n" + "," * 3000)
@example(" " * 5000 + "x")
@example("\u0301" * 3000)
def test_chunks_lie_end_to_end_and_cover_the_text(text: str) -> None:
    assert "".join(bodies(text)) == (text if text.strip() else "")
    spans = chunk(text)
    assert all(left.end == right.start for left, right in pairwise(spans))


@given(TEXT)
def test_each_chunk_is_bounded_and_holds_something_visible(text: str) -> None:
    for body in bodies(text):
        assert body.strip()
        assert len(re.sub(r"\s", "", body)) <= MAX_CHARACTERS
        assert len(body.split()) <= MAX_CHARACTERS


@given(TEXT)
def test_only_the_first_chunk_begins_with_white_space(text: str) -> None:
    assert not any(body[0].isspace() for body in bodies(text)[1:])


def test_at_most_128_words() -> None:
    text = "word " * 1000
    assert [len(body.split()) for body in bodies(text)] == [128] * 7 + [104]


def test_chinese_is_bounded_by_characters() -> None:
    assert all(len(body) <= 213 for body in bodies("向量检索系统" * 300))


def test_sentences_stay_whole() -> None:
    text = "Ten words make a sentence that is easy to count. " * 60
    assert all(body.strip().endswith("count.") for body in bodies(text))
    chinese = "他说：“我们把文档切成小块，再计算嵌入向量。”" * 60
    assert all(body.endswith("。”") for body in bodies(chinese))


def test_a_paragraph_is_a_better_end_than_a_sentence() -> None:
    text = "One short sentence here. " * 20 + "\n\n" + "Another sentence stands here. " * 20
    first, *_ = bodies(text)
    assert "Another" not in first


def test_a_number_is_not_cut_at_its_point() -> None:
    text = "3.14159 " * 500
    assert all(set(body.split()) == {"3.14159"} for body in bodies(text))


def test_without_a_visible_character_there_is_no_chunk() -> None:
    assert chunk("") == chunk(" \n\t\u3000") == []


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, list[Section]]:
    text = draw(TEXT)
    breaks = [found.end() for found in re.finditer(r"\s", text)] or [0]
    ends = sorted(draw(st.sets(st.sampled_from(breaks), max_size=6)) | {len(text)})
    headings = st.sampled_from([(), ("A",), ("A", "B"), ("C",)])
    return text, [
        Section(start, end, draw(headings), draw(st.sampled_from([None, 1, 2])), draw(KINDS))
        for start, end in pairwise([0, *ends])
    ]


KINDS = st.sampled_from(get_args(Kind))


@settings(deadline=None)
@given(documents(), st.sampled_from([None, Tokens(64)]))
def test_chunks_of_a_structured_document_cover_it_too(
    document: tuple[str, list[Section]], measure: Tokens | None
) -> None:
    text, sections = document
    spans = chunk(text, sections, measure)
    assert "".join(text[span.start : span.end] for span in spans) == (text if text.strip() else "")
    assert all(text[span.start : span.end].strip() for span in spans)
    assert all(left.end == right.start for left, right in pairwise(spans))
    by_page = {char: part.page for part in sections for char in range(part.start, part.end)}
    for span in spans:
        visible = {by_page[at] for at in range(span.start, span.end) if not text[at].isspace()}
        assert visible == {span.page}


def test_a_chunk_ends_with_its_page_and_its_heading() -> None:
    text = "# One\n\n" + "first " * 30 + "\n\n## Two\n\n" + "second " * 30 + "third " * 5
    two, third = text.index("## Two"), text.index("third")
    spans = chunk(
        text,
        [
            Section(0, two, ("One",), 1),
            Section(two, third, ("One", "Two"), 1),
            Section(third, len(text), ("One", "Two"), 2),
        ],
    )
    assert [(span.start, span.page, span.context) for span in spans] == [
        (0, 1, "One"),
        (two, 1, "One > Two"),
        (third, 2, "One > Two"),
    ]


def test_a_heading_without_a_text_stays_with_what_follows_it() -> None:
    text = "# One\n\n## Two\n\n" + "word " * 40
    two = text.index("## Two")
    spans = chunk(text, [Section(0, two, ("One",)), Section(two, len(text), ("One", "Two"))])
    assert [(span.start, span.end) for span in spans] == [(0, len(text))]


def test_code_is_cut_before_a_definition_and_a_table_between_rows() -> None:
    function = "def name():\n" + "    call(some, words, here)\n" * 9 + "\n"
    code = function * 9
    for span in chunk(code, [Section(0, len(code), kind="code")]):
        assert code[span.start : span.end].startswith("def name")
    table = '"a, b","c. d",e\n' * 200
    for span in chunk(table, [Section(0, len(table), kind="table")]):
        assert table[span.start : span.end].startswith('"a, b"')


def test_long_headings_leave_the_chunk_its_own_words() -> None:
    [span] = chunk("text", [Section(0, 4, ("x" * 500, "inner\nmost"))])
    assert span.context.endswith(" > inner most")
    assert len(span.context) == 160


@settings(deadline=None)
@given(TEXT, st.integers(64, 200))
@example("𓀀" * 300, 64)
@example("0¹00¹00¹00¹00¹00¹00̀" * 9, 64)
def test_tokens_are_never_more_than_promised(text: str, most: int) -> None:
    for span in chunk(text, measure=Tokens(most)):
        assert count_tokens(text[span.start : span.end].strip()) <= most


def test_tokens_fill_a_chunk() -> None:
    text = "The isthmus joins two lands. " * 300
    counts = [
        count_tokens(text[span.start : span.end]) for span in chunk(text, measure=Tokens(200))
    ]
    assert all(180 <= count <= 200 for count in counts[:-1])
