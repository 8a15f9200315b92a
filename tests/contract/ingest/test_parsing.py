"""Documents of every kind as text with its parts; and what is no document as a clear error."""

from __future__ import annotations

import asyncio
import os
import time
import zipfile
from io import BytesIO
from pathlib import Path

import anyio
import pytest

from mcp_server.errors import InvalidInput
from mcp_server.ingest import formats, parse_process, parsing
from mcp_server.ingest.parsed import Parsed
from mcp_server.ingest.parsing import Parser
from mcp_server.ingest.source import Source
from mcp_server.services.vectors.turns import Turns
from tests.contract.ingest.papers import encrypted_pdf, pdf, with_part, word

MIB = 1024 * 1024
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


async def parse(body: bytes, content_type: str | None = None, name: str = "") -> Parsed:
    parsed = await Parser(Turns(parsing.AT_ONCE, parsing.AT_ONCE)).parse(
        body, content_type, name, param="object"
    )
    starts = [part.start for part in parsed.sections]
    ends = [part.end for part in parsed.sections]
    if parsed.sections:  # end to end
        assert [0, *ends] == [*starts, len(parsed.text)]
    return parsed


def parts(parsed: Parsed) -> list[tuple[str, tuple[str, ...], int | None, str]]:
    return [
        (parsed.text[part.start : part.end].strip(), part.headings, part.page, part.kind)
        for part in parsed.sections
    ]


async def test_a_pdf_has_pages_under_the_headings_of_its_outline() -> None:
    body = pdf(
        ["The first page.\nIt goes on.", "", "The third page."],
        title="A paper",
        outline=[("Intro", 0), ("End", 2)],
    )
    parsed = await parse(body)
    assert (parsed.title, parsed.media_type) == ("A paper", "application/pdf")
    assert parts(parsed) == [
        ("The first page.\nIt goes on.", ("Intro",), 1, "text"),
        ("The third page.", ("End",), 3, "text"),
    ]


async def test_a_word_document_has_headings_paragraphs_and_tables() -> None:
    for content_type, name in ((None, ""), (DOCX, ""), ("application/zip", "a/b.docx")):
        parsed = await parse(word(), content_type, name)
        assert (parsed.title, parsed.media_type) == ("The handbook", DOCX)
        assert parts(parsed) == [
            ("Bridges\n\nA bridge carries a road over water.", ("Bridges",), None, "text"),
            ("Spans", ("Bridges", "Spans"), None, "text"),
            ("name | metres\n金门大桥 | 1280", ("Bridges", "Spans"), None, "table"),
            ("Measured between towers.", ("Bridges", "Spans"), None, "text"),
        ]


PAGE = """<!DOCTYPE html><html><head><title>Land &amp; sea</title><style>x{}</style><script>evil()</script></head>
<body><nav>Home | About</nav><header>Banner</header>
<h1>Isthmus</h1><p>A strip of <b>land</b>
between <a href=x>two</a> seas.<br>Second line.</p><p hidden>secret</p><div style="display: none">hidden</div>
<span aria-hidden="true">x</span><noscript>no</noscript><!-- comment -->
<h2>Kinds</h2><ul><li>natural</li><li>man-made</li></ul>
<table><tr><th>name</th><th>km</th></tr><tr><td>Panama</td><td>50</td></tr></table>
<pre>  keep
    this</pre><footer>Imprint</footer></body></html>"""


async def test_html_is_what_a_reader_sees() -> None:
    parsed = await parse(PAGE.encode(), "text/html")
    assert (parsed.title, parsed.media_type) == ("Land & sea", "text/html")
    assert parts(parsed) == [
        ("Isthmus\n\nA strip of land between two seas.\nSecond line.", ("Isthmus",), None, "text"),
        ("Kinds\n\n- natural\n\n- man-made", ("Isthmus", "Kinds"), None, "text"),
        ("name | km\nPanama | 50", ("Isthmus", "Kinds"), None, "table"),
        ("keep\n    this", ("Isthmus", "Kinds"), None, "code"),
    ]


async def test_the_main_text_of_a_page_is_taken_where_it_is_marked() -> None:
    page = "<html><body><p>around</p><main><header>Lead</header><p>inside</p></main></body></html>"
    assert (await parse(page.encode())).text == "Lead\n\ninside"


async def test_html_in_an_old_encoding_says_so_itself() -> None:
    page = '<html><head><meta charset="gb2312"></head><body>向量检索</body></html>'
    assert (await parse(page.encode("gb18030"))).text == "向量检索"
    page = (
        '<?xml version="1.0" encoding="UTF-8"?><html xmlns="x"><body><p>sh&#233;</p></body></html>'
    )
    assert (await parse(page.encode(), "application/xhtml+xml")).text == "shé"


MARKDOWN = """---
tags: [a]
---
Intro.

# One *bold*

Text with # no heading.

```python
# no heading
code()
```

| a | b |
|---|---|
| 1 | 2 |

Setext
------
> # quoted heading

last\r
"""


async def test_markdown_stays_as_it_is_and_is_cut_at_its_headings() -> None:
    for size in (1, 2000):  # in the server's own process, and in one of its own
        text = MARKDOWN + "more text\n" * 5 * size
        parsed = await parse(text.encode(), name="notes.md")
        assert parsed.text == text
        assert parsed.title == "One bold"
        seen = [part for part in parts(parsed) if part[0]]
        assert [(part[1], part[3]) for part in seen] == [
            ((), "text"),
            (("One bold",), "text"),
            (("One bold",), "code"),
            (("One bold",), "table"),
            (("One bold", "Setext"), "text"),
        ]
        assert "# no heading\ncode()" in seen[2][0]


async def test_csv_keeps_its_rows_and_tells_its_columns() -> None:
    text = 'name;"length, m"\nGolden Gate;2737\n'
    parsed = await parse(text.encode(), name="b.csv")
    assert parts(parsed) == [(text.strip(), ("name, length, m",), None, "table")]
    assert parts(await parse(b"1,2\n3,4\n", "text/csv"))[0][1] == ()


async def test_json_is_valid_and_stays_as_it_is() -> None:
    text = '{"a": 1.10, "b": [1e400, 99999999999999999999]}'
    assert (await parse(text.encode(), "application/json")).text == text
    lines = '{"a": 1}\n\n{"a": 2}\n'
    assert parts(await parse(lines.encode(), name="x.jsonl"))[0][3] == "table"
    for broken, name, place in (
        (b'{"a": }', "a.json", "line 1"),
        (b"{}\n{\n", "a.jsonl", "line 2"),
    ):
        with pytest.raises(InvalidInput, match=f"object: it is not JSON at {place}"):
            await parse(broken, name=name)
    with pytest.raises(InvalidInput, match="nested too deeply"):
        await parse(b"[" * 200_000, "application/json")


CODE = """import os

# Adds.
@cached
def add(a, b):
    return a + b

class Thing(Base):
    def method(self):
        pass
"""


async def test_source_code_is_cut_at_its_definitions() -> None:
    parsed = await parse(CODE.encode(), name="src/a.py")
    assert parsed.text == CODE
    assert [(part[0].split("\n")[0], part[1]) for part in parts(parsed)] == [
        ("import os", ()),
        ("# Adds.", ("def add(a, b)",)),
        ("class Thing(Base):", ("class Thing(Base)",)),
    ]
    rust = "pub fn run() {\n}\n\nimpl Drop for X {\n}\n"
    headings = [part[1] for part in parts(await parse(rust.encode(), name="x.rs"))]
    assert headings == [("pub fn run()",), ("impl Drop for X",)]


CHINESE = "向量检索系统把文档切成小块，再计算每一块的嵌入向量，最后按相似度排序。" * 4
TRADITIONAL = "向量檢索系統把文件切成小塊，再計算每一塊的嵌入向量，最後按相似度排序。" * 4
JAPANESE = "ベクトル検索は文書を小さな部分に分け、それぞれの埋め込みを計算します。" * 4


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain", "ascii"),
        ("naïve café — “quoted” " * 5, "utf-8"),
        (CHINESE, "utf-8-sig"),
        (CHINESE, "utf-16"),
        (CHINESE, "utf-32"),
        ("Half of the bytes are zero here.\n", "utf-16-le"),
        ("Half of the bytes are zero here.\n", "utf-16-be"),
        (CHINESE, "gb18030"),
        (TRADITIONAL, "big5"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        ("Le café où l'été s'achève, déjà très près de la forêt, est à côté. " * 3, "latin-1"),
        ("„Größe“ – die Straße über den Fluss führt schön früh. " * 3, "cp1252"),
        ("Поиск по векторам делит документы на небольшие части. " * 3, "cp1251"),
        ("Поиск по векторам делит документы на небольшие части. " * 3, "koi8_r"),
        ("Zażółć gęślą jaźń, wyszukiwanie dzieli dokumenty na części. " * 3, "cp1250"),
        ("벡터 검색은 문서를 작은 부분으로 나눕니다.", "euc_kr"),
        ("café", "latin-1"),
        ("中文文档", "gb18030"),
    ],
)
async def test_text_in_common_encodings_is_read(text: str, encoding: str) -> None:
    assert (await parse(text.encode(encoding))).text == text


async def test_a_declared_encoding_is_believed_and_held_to() -> None:
    assert (await parse("中文".encode("big5"), 'text/plain; charset="big5"')).text == "中文"
    assert (await parse("é".encode(), "text/plain; charset=no-such-thing")).text == "é"
    assert (await parse("é".encode(), "text/plain; charset=base64")).text == "é"
    with pytest.raises(InvalidInput, match="object: it is not utf-8 at byte 3"):
        await parse(b"abc\xff", "text/plain; charset=utf-8")


def bomb(size: int) -> bytes:
    """Pack `size` bytes of one letter into the text of a Word document."""
    start, end = b"<w:document xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'><w:body><w:p><w:r><w:t>", b"</w:t></w:r></w:p></w:body></w:document>"  # fmt: skip
    return with_part(word(), "word/document.xml", start + b"x" * size + end)


def entities() -> bytes:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    xml = (
        f'<!DOCTYPE x [<!ENTITY e0 "isthmus">{levels}<!ENTITY f SYSTEM "file:///etc/passwd">]>'
        "<w:document xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'>"
        "<w:body><w:p><w:r><w:t>&e11;&f;</w:t></w:r></w:p></w:body></w:document>"
    )
    return with_part(word(), "word/document.xml", xml.encode())


def archive() -> bytes:
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as new:
        new.writestr("readme.txt", "x")
    return made.getvalue()


BROKEN = {
    "an empty file": (b"", None, "empty"),
    "white space": (b" \n\t", "text/plain", "empty"),
    "an empty page": (b"<html><body></body></html>", None, "no text"),
    "NULs": (b"text\0text", "text/plain", r"U\+0000"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "image/png", "image/png is of no kind"),
    "bytes": (bytes(range(256)) * 9, "application/octet-stream", "no text"),
    "a program": (b"\x7fELF\x02\x01\x01\xff" + bytes(100), None, "no text"),
    "half a PDF": (pdf(["x" * 50] * 9)[:300], None, "no PDF, or broken"),
    "no PDF": (b"hello", "application/pdf", "no PDF, or broken"),
    "an encrypted PDF": (encrypted_pdf(), None, "encrypted|broken"),
    "a scanned PDF": (pdf(["", ""]), None, "no text"),
    "half a docx": (word()[:2000], DOCX, "no .docx, or broken"),
    "another archive": (archive(), DOCX, "an archive, and no .docx"),
    "an archive": (archive(), "application/zip", "of no kind"),
    "an old doc": (b"\xd0\xcf\x11\xe0" + bytes(500), DOCX, "old .doc format"),
    "a docx with broken XML": (with_part(word(), "word/document.xml", b"<w:x"), DOCX, "broken"),
    "entities": (entities(), DOCX, "broken|no text"),
    "a zip bomb": (bomb(200 * MIB), DOCX, "unpacks to more than"),
    "a small bomb": (bomb(20 * MIB), DOCX, "broken|more than 8000000 characters"),
    "a huge file": (b"x" * (32 * MIB + 1), "text/plain", "more than 33554432 bytes"),
    "many parts": (
        b"".join(b"def f%d\n" % n for n in range(100_001)),
        "text/x-python",
        "100000 parts",
    ),
    "a huge text": (b"word " * 2 * MIB, "text/plain", "more than 8000000 characters"),
    "huge JSON": (
        b"[" + b"[]," * 3 * MIB + b"[]]",
        "application/json",
        "more than 8000000 characters",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_cannot_be_read_is_refused_and_says_why(what: str) -> None:
    body, content_type, why = BROKEN[what]
    with pytest.raises(InvalidInput, match=f"^invalid_input: object: .*(?:{why})") as error:
        await parse(body, content_type)
    assert error.value.param == "object"


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 100_000 + "deep",
        "<b>" * 20_000 + "deep",
        "<table>" * 5_000 + "x",
        "<p>&#0;&#xD800;nul</p>",
        "<p " + "a=1 " * 100_000 + ">attributes</p>",
        "<!--" * 100_000 + "x",
    ],
)
async def test_hostile_html_ends_within_its_bounds(page: str) -> None:
    async with asyncio.timeout(20):
        try:
            parsed = await parse(f"<html><body>{page}".encode(), "text/html")
        except InvalidInput:
            return
    assert "\0" not in parsed.text
    parsed.text.encode()


@pytest.mark.parametrize(
    "text",
    [
        "> " * 10_000,
        "- " * 10_000 + "x",
        "[" * 30_000,
        "`" * 30_000,
        "|" * 30_000 + "\n" + "|-" * 9_000,
    ],
)
async def test_hostile_markdown_ends_within_its_bounds(text: str) -> None:
    async with asyncio.timeout(20):
        assert (await parse(text.encode(), "text/markdown")).text == text


async def test_a_hostile_beginning_is_looked_at_once() -> None:
    """What a document is, is decided in the server's own process, where nothing could end it."""
    begun = time.perf_counter()
    assert (await parse(b"<!---->" * 24 + b"x")).text.endswith("x")
    assert (await parse(b"<!-- " * 24 + b"x")).text.endswith("x")
    assert time.perf_counter() - begun < 30  # the steps double with each repetition else
    page = b" <!-- a -- > b --> \n<!----><!DOCTYPE html><p>A page.</p>"
    assert (await parse(page)).media_type == "text/html"


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "utf-7", "unicode_escape", "raw-unicode-escape"]
)
async def test_encodings_that_are_no_character_sets_are_not_decoded(charset: str) -> None:
    """Some take the square of the length, some make what no database stores."""
    text = "a-\\ud800 +2AA- bcd"
    assert (await parse(text.encode(), f"text/plain; charset={charset}")).text == text


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.json", b"[" + b"[]," * 100_000 + b"[]]"),
        ("a.csv", b"a,b\n" * 75_000),
        ("a.py", b"x = 1\n" * 50_000),
        ("a.txt", b"word " * 250_000),
        ("a.md", b"word " * 10_000),
    ],
)
async def test_what_is_long_is_read_in_a_process_of_its_own(
    name: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    create = asyncio.create_subprocess_exec

    async def noted(*program: str, **options: object) -> asyncio.subprocess.Process:
        begun.append(name)
        return await create(*program, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(parsing.asyncio, "create_subprocess_exec", noted)
    assert (await parse(body, name=name)).text == body.decode()
    assert begun == [name]


async def test_the_child_is_bounded_in_memory_time_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parser that is taken over is held by its process; planted ones stand for it here."""
    plant = tmp_path / "mcp_server_planted"
    plant.mkdir()
    hostile = {
        "memory": "bytearray(3 * 1024**3)",
        "file": f"open({str(tmp_path / 'written')!r}, 'wb').write(b'x' * 100_000)",
        "flood": "__import__('sys').stdout.write('x' * 100_000_000)",
        "crash": "__import__('os').abort()",
        "secrets": "(_ for _ in ()).throw(Unreadable(str(sorted(__import__('os').environ))))",
        "time": "exec('while True: pass')",
    }
    for name, code in hostile.items():
        (plant / f"{name}.py").write_text(
            "from mcp_server.ingest.source import Unreadable\n"
            "MEDIA_TYPES = SUFFIXES = ()\nINLINE_BYTES = 0\n"
            f"def sniff(head): return head == {name.encode()!r}\n"
            f"def parse(source): return {code}\n"
        )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ISTHMUS_SECRET_KEY", "s" * 32)
    (tmp_path / "sitecustomize.py").write_text(
        "import resource, mcp_server.ingest.parse as parse\n"
        f"parse.__path__.append({str(plant)!r})\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (1, 5))\n"
    )
    monkeypatch.setattr(formats.parse, "__path__", [*formats.parse.__path__, str(plant)])
    formats.formats.cache_clear()
    try:
        for name in hostile:
            with pytest.raises(InvalidInput) as told:
                await Parser(Turns(parsing.AT_ONCE, parsing.AT_ONCE)).parse(
                    name.encode(), param="object"
                )
            assert "ISTHMUS" not in str(told.value)
            if name == "secrets":
                assert "PATH" in str(told.value)
        written = tmp_path / "written"
        assert not written.exists() or written.stat().st_size == 0
    finally:
        formats.formats.cache_clear()


async def test_nobody_waits_behind_all_the_documents_of_another_tenant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[str] = []
    ends: list[asyncio.Event] = []

    async def slow(kind: str, source: Source) -> Parsed:
        begun.append(source.name)
        ends.append(asyncio.Event())
        await ends[-1].wait()
        return Parsed(kind)

    monkeypatch.setattr(parsing, "_apart", slow)
    parser = Parser(Turns(parsing.AT_ONCE, parsing.AT_ONCE))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for number in range(8):
            name = f"loud{number}.pdf"
            group.create_task(parser.parse(b"%PDF-", None, name, param="object", tenant="loud"))
        while len(begun) < parsing.AT_ONCE:
            await asyncio.sleep(0)
        group.create_task(parser.parse(b"%PDF-", None, "quiet.pdf", param="object", tenant="quiet"))
        for _ in range(10):
            await asyncio.sleep(0)
        ends[0].set()
        while len(begun) == parsing.AT_ONCE:
            await asyncio.sleep(0)
        assert begun[parsing.AT_ONCE] == "quiet.pdf"
        while len(begun) < 9 or not all(end.is_set() for end in ends):
            for end in ends:
                end.set()
            await asyncio.sleep(0)


async def test_a_caller_that_leaves_ends_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[asyncio.subprocess.Process] = []
    create = asyncio.create_subprocess_exec

    async def noted(*program: str, **options: object) -> asyncio.subprocess.Process:
        begun.append(await create(*program, **options))  # pyright: ignore[reportArgumentType]
        return begun[-1]

    monkeypatch.setattr(parsing.asyncio, "create_subprocess_exec", noted)
    parsing_one = asyncio.ensure_future(parse(pdf(["x"] * 500)))
    async with asyncio.timeout(30):
        while not begun:
            await asyncio.sleep(0.001)
    parsing_one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await parsing_one
    [process] = begun
    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_the_bounds_are_what_the_documentation_says() -> None:
    assert (parse_process.MOST_MEMORY, parse_process.MOST_CPU_SECONDS) == (1024 * MIB, 30)
    assert parsing.MAX_DOCUMENT_BYTES == 32 * MIB


async def test_a_scope_that_is_cancelled_while_the_child_starts_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[asyncio.subprocess.Process] = []
    create = asyncio.create_subprocess_exec

    async with anyio.create_task_group() as group:

        async def slow(*program: str, **options: object) -> asyncio.subprocess.Process:
            begun.append(await create(*program, **options))  # pyright: ignore[reportArgumentType]
            group.cancel_scope.cancel()
            for _ in range(100):
                await asyncio.sleep(0)
            return begun[-1]

        monkeypatch.setattr(parsing.asyncio, "create_subprocess_exec", slow)
        group.start_soon(parse, pdf(["x"] * 500))
    [process] = begun
    ended = process.returncode is not None
    if not ended:
        process.kill()
        await process.communicate()
    assert ended
