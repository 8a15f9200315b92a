"""Cuts text into the tokens that full-text search compares, the same for documents and queries.

Text is normalised (Unicode NFKC, case folded) and cut into words. Scripts written without spaces
give overlapping pairs of characters. A name of several parts, such as `kv_set`, `v1.2.3`, `ERR-4711`
or `VectorStore`, gives itself and its parts, so that both an exact and a partial query find it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MAX_TOKEN_CHARACTERS = 128

# Han, kana, Hangul, Thai, Lao, Burmese, Khmer: what is written without spaces, or glues its particles
# to the word as Korean does. The middle dot and the double hyphen among the kana are punctuation.
UNSPACED = (
    "\u0e00-\u0e4e\u0e80-\u0ece\u1000-\u1049\u1100-\u11ff\u1780-\u17d3"
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3131-\u318e\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U000323af"
)
# Vowel signs and accents belong to the letter before them, but are not alphanumeric to Python.
MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963"
    "\u0981-\u0983\u09bc-\u09cd\u0a01-\u0a03\u0a3c-\u0a51\u0a81-\u0a83\u0abc-\u0acd"
    "\u0b01-\u0b03\u0b3c-\u0b57\u0b82\u0bbe-\u0bcd\u0c00-\u0c04\u0c3c-\u0c56\u0c81-\u0c83"
    "\u0cbc-\u0cd6\u0d00-\u0d03\u0d3b-\u0d4d\u0d81-\u0d83\u0dca-\u0ddf\u0f71-\u0f84"
    "\u1ab0-\u1ace\u1dc0-\u1dff\u20d0-\u20f0"
)
_WORD = rf"(?:[^\W_{UNSPACED}][{MARKS}]*)+"
_PIECE = re.compile(rf"([{UNSPACED}]+)|{_WORD}(?:[_.:@-]{_WORD})*")
_PART = re.compile(_WORD)
# What a change of case separates: HTTPServer -> HTTP, Server; kvGet2 -> kv, Get2.
_HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+")
# Soft hyphen, joiners, word joiner, byte order mark: invisible inside a word.
_INVISIBLE = dict.fromkeys([0x00AD, 0x200C, 0x200D, 0x2060, 0xFEFF])


def tokenise(text: str) -> list[str]:
    """Return the tokens of a text in order, repeats included; any text has an answer.

    A token has 1-128 characters, all of them letters, digits, marks or one of `_ . : @ -`.
    """
    return list(_tokens(unicodedata.normalize("NFKC", text).translate(_INVISIBLE)))


def _tokens(text: str) -> Iterator[str]:
    for match in _PIECE.finditer(text):
        run = match[1]
        if run is not None:
            yield from _pairs(_fold(run))
            continue
        piece = match[0]
        parts = _PART.findall(piece)
        yield _cap(_fold(piece))
        if len(parts) > 1:
            yield from (_cap(_fold(part)) for part in parts)
        for part in parts:
            humps = _HUMP.findall(part)
            if len(humps) > 1:
                yield from (_cap(_fold(hump)) for hump in humps)


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    for start in range(len(run) - 1):
        yield run[start : start + 2]


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    # Folding can undo the normal form, for example of the long s with a dot.
    return unicodedata.normalize("NFKC", text.casefold())


def _cap(token: str) -> str:
    return token[:MAX_TOKEN_CHARACTERS]
