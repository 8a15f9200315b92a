"""Media types, and bytes as text or base64 in arguments and results."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.errors import InvalidInput
from mcp_server.services.objects import content


@pytest.mark.parametrize(
    ("key", "is_text", "expected"),
    [
        ("a.txt", True, "text/plain"),
        ("notes/a.md", True, "text/markdown"),
        ("a.json", False, "application/json"),
        ("a.YAML", False, "application/yaml"),
        ("a.html", True, "text/html"),
        ("a.svg", True, "image/svg+xml"),
        ("photo.png", False, "image/png"),
        ("a.tar.gz", False, "application/gzip"),
        ("no-extension", True, "text/plain"),
        ("no-extension", False, "application/octet-stream"),
        ("folder.json/file", False, "application/octet-stream"),
        ("data:text/html,x", False, "application/octet-stream"),
        ("12:30.json", False, "application/json"),
        # What came as text has to come back as text.
        ("photo.png", True, "text/plain"),
        ("data.bin", True, "text/plain"),
    ],
)
def test_the_media_type_follows_the_key_and_the_argument(
    key: str, is_text: bool, expected: str
) -> None:
    assert content.media_type(None, key, is_text=is_text) == expected


@pytest.mark.parametrize(
    "given", ["text/plain", "text/plain; charset=utf-8", 'a/b;x="q, r"', "application/vnd.x+json"]
)
def test_a_given_media_type_is_kept(given: str) -> None:
    assert content.media_type(given, "a.png", is_text=True) == given


@pytest.mark.parametrize(
    "given",
    [
        "",
        "text",
        "text/",
        "/plain",
        "a/b/c",
        "té/xt",
        "a/" + "b" * 300,
        "text/plain\r\nX-Evil: 1",
        "text/plain; charset",
        "text/plain; charset=utf-8\n",
        'a/b; x="unclosed',
    ],
)
def test_a_malformed_media_type_is_refused_by_name(given: str) -> None:
    with pytest.raises(InvalidInput, match="content_type") as caught:
        content.media_type(given, "a", is_text=False)
    assert caught.value.param == "content_type"


def test_text_cannot_claim_another_charset() -> None:
    with pytest.raises(InvalidInput, match="UTF-8"):
        content.media_type("text/plain; charset=gbk", "a", is_text=True)
    assert content.media_type("text/plain; charset=gbk", "a", is_text=False)


@given(st.binary(max_size=200), st.sampled_from(["text/plain", "application/json", "image/png"]))
def test_bytes_survive_a_result_and_the_next_argument(body: bytes, kind: str) -> None:
    shown = content.encode(body, kind)
    assert len(shown) == 1
    assert content.decode(shown.get("text"), shown.get("base64")) == body


def test_text_is_shown_as_text_only_if_it_is_text() -> None:
    assert content.encode("é".encode(), "text/plain") == {"text": "é"}
    assert content.encode("é".encode()[:1], "text/plain") == {"base64": "ww=="}
    assert content.encode(b"ab", "text/plain; charset=utf-16") == {"base64": "YWI="}
    assert content.encode(b"ab", "application/octet-stream") == {"base64": "YWI="}
    assert content.encode(b"<a/>", "image/svg+xml") == {"text": "<a/>"}


@pytest.mark.parametrize("encoded", ["YWJ", "YW Jj", "YWJj\n", "YWJj-_", "=", "Y", "é", "YWJj===="])
def test_malformed_base64_is_refused_by_name(encoded: str) -> None:
    with pytest.raises(InvalidInput, match=": base64: ") as caught:
        content.decode(None, encoded)
    assert caught.value.param == "base64"


@pytest.mark.parametrize("arguments", [(None, None), ("a", "YQ=="), ("", "")])
def test_exactly_one_of_text_and_base64_is_wanted(
    arguments: tuple[str | None, str | None],
) -> None:
    with pytest.raises(InvalidInput, match="either text or base64"):
        content.decode(*arguments)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidInput, match="surrogate"):
        content.decode("ok \ud800", None)


def test_an_argument_has_a_largest_size() -> None:
    limit = content.MAX_ARGUMENT_BYTES
    assert len(content.decode("x" * limit, None)) == limit
    with pytest.raises(InvalidInput, match=": text: "):
        content.decode("x" * (limit + 1), None)
    with pytest.raises(InvalidInput, match=": base64: "):
        content.decode(None, base64.b64encode(b"x" * (limit + 1)).decode())
