"""Bytes as text: byte order marks, the declared encoding, UTF-8, and a guess among the common ones."""

from __future__ import annotations

import codecs

from mcp_server.ingest.source import MAX_TEXT_CHARACTERS, Source, UnknownKind, Unreadable

_MARKS = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What is guessed among, the likelier first: that decides between guesses that are about as good.
_GUESSED = (
    *(
        "gb18030",
        "big5",
        "cp932",
        "euc_jp",
        "euc_kr",
        "cp1252",
        "cp1251",
        "koi8_r",
        "cp1253",
        "cp1255",
    ),
    *("cp1256", "cp1250", "latin_1"),
)
# What may be declared, by Python's names: character sets that are in use, each decoded in one pass. Others
# take the square of the length (punycode, idna) or make halves of surrogate pairs (utf-7, escapes).
_DECLARABLE = (
    frozenset(_GUESSED)
    | {f"iso8859-{part}" for part in (*range(1, 12), *range(13, 17))}
    | {f"cp{page}" for page in (437, 850, 852, 855, 857, 858, 862, 864, 866, 874, 949, 950)}
    | {f"cp{page}" for page in range(1250, 1259)}
    | {f"utf-{size}{order}" for size in (16, 32) for order in ("", "-le", "-be")}
    | {"utf-8", "utf-8-sig", "ascii", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic", "tis-620"}
    | {"gb2312", "gbk", "hz", "big5hkscs", "shift_jis", "shift_jis_2004", "shift_jisx0213", "johab"}
    | {"euc_jis_2004", "euc_jisx0213", "iso2022_jp", "iso2022_jp_1", "iso2022_jp_2", "iso2022_kr"}
)
_ABOUT = 0.05
_SAMPLE = 32_768
_LEAST_WIDE = 16
# Of bytes that stand for no character in text; a text has none of them.
_CONTROL = frozenset(range(32)) - {7, 8, 9, 10, 11, 12, 13, 27}


def decode(source: Source, *, markup: bool = False) -> str:
    """Return the text of a document that is text, or `markup` around one.

    Raises:
        Unreadable: it is in no known encoding, not in the declared one, no text at all, or too long.
    """
    text = _decoded(source)
    if len(text) > MAX_TEXT_CHARACTERS and not markup:
        raise Unreadable(f"its text has more than {MAX_TEXT_CHARACTERS} characters; split it")
    at = text.find("\0")
    if at >= 0:
        raise Unreadable(f"it is no text: it holds U+0000 at character {at}")
    return text


def _decoded(source: Source) -> str:
    body = source.body
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            return _strict(body[len(mark) :], encoding)
    declared = _known(source.charset)
    if declared is not None:
        return _strict(body, declared)
    wide = _wide(body)
    if wide is not None:
        return _strict(body, wide)
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        reason = error
    if _CONTROL & set(body[:_SAMPLE]):
        raise UnknownKind("it is no text, and of no kind that can be read") from reason
    return _strict(body, _guess(body))


def _known(charset: str | None) -> str | None:
    """Return Python's name of a declared text encoding, None for one that is not read here."""
    if not charset:
        return None
    try:
        found = codecs.lookup(charset.strip("\"' "))
    except (LookupError, ValueError):
        return None
    if found.name not in _DECLARABLE:
        return None
    # Browsers' rule: what calls itself so is nearly always the larger encoding.
    return {"gb2312": "gb18030", "gbk": "gb18030", "iso8859-1": "cp1252", "ascii": "utf-8"}.get(
        found.name, found.name
    )


def _strict(body: bytes, encoding: str) -> str:
    try:
        return body.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "cp1252":  # five bytes mean nothing there
            return body.decode("latin-1")
        raise Unreadable(
            f"it is not {encoding} at byte {error.start}; store it as UTF-8, or declare its charset"
        ) from error


def _wide(body: bytes) -> str | None:
    """Return UTF-16 of an order if every other byte is mostly the same in a way that only it makes."""
    if len(body) % 2 or len(body) < _LEAST_WIDE:
        return None
    sample = body[:_SAMPLE]
    for encoding, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if zeros.count(0) > 0.4 * len(zeros):
            return encoding
    return None


def _guess(body: bytes) -> str:
    """Return the encoding that makes the most of a sample, by the frequencies of its language."""
    from charset_normalizer import from_bytes

    sample = body[:_SAMPLE]
    if len(body) > _SAMPLE:  # not in the middle of a character
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    found = from_bytes(sample, cp_isolation=list(_GUESSED), threshold=0.4)
    best = found.best()
    if best is None:
        return "cp1252"
    near = {
        encoding
        for match in found
        if match.chaos <= best.chaos + _ABOUT and match.coherence >= best.coherence - _ABOUT
        for encoding in (match.encoding, *match.could_be_from_charset)
    }
    return min(near, key=_GUESSED.index)
