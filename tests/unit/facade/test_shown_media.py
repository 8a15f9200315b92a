"""Images and files become parts that hold their bytes, whatever they are."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp_server.services.media import Media
from openai_facade.translate.shown_media import place_of, shown, source_of

FILE: Any = {"type": "file", "file": {"file_id": "file-1"}}
IMAGE: Any = {"type": "image_url", "image_url": {"url": "https://a.example/b.png", "detail": "low"}}


def test_what_has_its_bytes_needs_none() -> None:
    parts: list[Any] = [
        {"type": "text", "text": "x"},
        {"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AA=="}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,AA==", "filename": "a"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    assert [source_of(part) for part in parts] == [None] * 4


def test_sources_are_told_with_their_place() -> None:
    assert (source_of(FILE), place_of(FILE)) == (("file", "file-1"), "file.file_id")
    assert source_of(IMAGE) == ("url", "https://a.example/b.png")
    assert place_of(IMAGE) == "image_url.url"
    own: Any = {"type": "image_url", "image_url": {"file_id": "file-2"}}
    assert (source_of(own), place_of(own)) == (("file", "file-2"), "image_url.file_id")


@given(st.binary(max_size=64))
def test_the_bytes_of_an_image_survive(data: bytes) -> None:
    part = shown(IMAGE, Media(data, "image/png", "b.png"))
    assert part is not None
    head, _, body = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == data
    assert part["image_url"]["detail"] == "low"


def test_what_is_no_image_is_not_shown_as_one() -> None:
    assert shown(IMAGE, Media(b"<html>", "text/html", "b.png")) is None


def test_a_file_is_text_an_image_or_data_by_its_kind() -> None:
    text = shown(FILE, Media(b"hello", "text/plain", "a.txt"))
    image = shown(FILE, Media(b"\x89", "image/png", "a.png"))
    other = shown(FILE, Media(b"%PDF", "application/pdf", "a.pdf"))

    assert text == {"type": "text", "text": "a.txt:\nhello"}
    assert image is not None
    assert image["type"] == "image_url"
    assert other == {
        "type": "file",
        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
    }
