"""Chunks: end to end, bounded, and cut where a reader would cut."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from mcp_server.ingest.chunk import MAX_CHARACTERS, chunk

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
