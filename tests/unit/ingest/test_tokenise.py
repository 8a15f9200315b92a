"""The tokenizer: one answer for documents and queries, whatever the script."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_server.ingest.tokenise import MAX_TOKEN_CHARACTERS, tokenise

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=200)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The quick, brown FOX!", ["the", "quick", "brown", "fox"]),
        ("Straße ｆｕｌｌ ﬁne", ["strasse", "full", "fine"]),
        ("向量检索", ["向量", "量检", "检索"]),
        ("一只猫。狗", ["一只", "只猫", "狗"]),
        ("使用kv_set工具", ["使用", "kv_set", "kv", "set", "工具"]),
        ("サーバー・ログ", ["サー", "ーバ", "バー", "ログ"]),
        ("한국어 검색", ["한국", "국어", "검색"]),
        ("v1.2.3 and 3.14", ["v1.2.3", "v1", "2", "3", "and", "3.14", "3", "14"]),
        ("ERR-4711:", ["err-4711", "err", "4711"]),
        ("mail a.b@example.com.", ["mail", "a.b@example.com", "a", "b", "example", "com"]),
        ("VectorStore", ["vectorstore", "vector", "store"]),
        ("HTTPServer2", ["httpserver2", "http", "server2"]),
        ("don't", ["don", "t"]),
        ("naïve nai\u0308ve", ["naïve", "naïve"]),
        ("हिन्दी", ["हिन्दी"]),
        ("co\u00adoperate", ["cooperate"]),
        ("snake__case", ["snake", "case"]),
        ("", []),
        (" \n…—!?", []),
    ],
)
def test_text_becomes_tokens(text: str, tokens: list[str]) -> None:
    assert tokenise(text) == tokens


@given(ANY_TEXT)
@example("\ud800")
@example("\0'\\:*&|!()<->")
def test_any_text_has_tokens_that_an_index_can_hold(text: str) -> None:
    for token in tokenise(text):
        assert 0 < len(token) <= MAX_TOKEN_CHARACTERS
        assert len(token.encode()) <= 2046  # PostgreSQL's longest lexeme
        for char in token:
            # Unassigned: a younger Unicode than this Python's has characters for Han.
            known = unicodedata.category(char)
            assert char in "_.:@-" or known[0] in "LNM" or known == "Cn"


@given(ANY_TEXT)
def test_a_token_is_found_by_itself(text: str) -> None:
    for token in tokenise(text):
        assert tokenise(token)[:1] == [token]


@given(ANY_TEXT, ANY_TEXT)
def test_what_stands_apart_is_cut_apart(left: str, right: str) -> None:
    assert tokenise(f"{left}\n{right}") == tokenise(left) + tokenise(right)


@given(st.text(st.characters(categories=["Lu", "Ll", "Nd"]), max_size=50))
def test_case_and_form_do_not_matter(text: str) -> None:
    folded = unicodedata.normalize("NFKC", text).casefold()
    assert set(tokenise(folded)) <= set(tokenise(text))
    assert tokenise(unicodedata.normalize("NFD", text)) == tokenise(text)


def test_a_long_word_keeps_its_beginning() -> None:
    assert tokenise("x" * 1000) == ["x" * MAX_TOKEN_CHARACTERS]
