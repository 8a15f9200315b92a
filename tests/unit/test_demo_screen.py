"""What the demo writes: colours and a spinner on a terminal, plain lines elsewhere, wide characters counted."""

from __future__ import annotations

import io

import anyio
import pytest

from mcp_server.commands.demo import screen as module
from mcp_server.commands.demo.screen import Screen, columns, fit, wrap


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name in ("SPIN_AFTER_SECONDS", "SAY_AFTER_SECONDS"):
        monkeypatch.setattr(module, name, 0.0)


def fill(screen: Screen) -> None:
    screen.step(1, 2, "Title")
    screen.call("tool", '{"a": 1}')
    screen.result({"a": "é"})
    screen.note("note")
    screen.good("good")
    screen.bad("bad")


def test_a_pipe_gets_plain_text() -> None:
    stream = io.StringIO()
    fill(Screen(stream))
    assert stream.getvalue() == (
        '\n1/2  Title\n     tool {"a": 1}\n     → {"a": "é"}\n     note\ngood\nbad\n'
    )


def test_a_terminal_gets_colours_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured, plain = Terminal(), Terminal()
    fill(Screen(coloured))
    monkeypatch.setenv("NO_COLOR", "1")
    fill(Screen(plain))
    assert "\x1b[32mgood\x1b[0m" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue()


def test_a_terminal_that_knows_no_codes_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    fill(Screen(stream))
    assert "\x1b" not in stream.getvalue()


async def until(stream: io.StringIO, text: str) -> None:
    with anyio.fail_after(10):
        while text not in stream.getvalue():
            await anyio.sleep(0.01)


async def test_a_terminal_sees_a_spinner_that_makes_way_for_lines() -> None:
    stream = Terminal()
    screen = Screen(stream)
    async with screen.waiting("waiting for it"):
        await until(stream, "waiting for it (")
        screen.note("between")
        screen.now("nearly there")
        await until(stream, "nearly there (")
    screen.line("done")
    assert "\r\x1b[2K\x1b[2m     between\x1b[0m\n" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[2Kdone\n")


async def test_a_pipe_sees_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAY_AGAIN_SECONDS", 0.01)
    stream = io.StringIO()
    async with Screen(stream).waiting("waiting for it"):
        await until(stream, "     … waiting for it (0 s)\n     … waiting for it (0 s)\n")


async def test_what_is_quick_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPIN_AFTER_SECONDS", 60.0)
    stream = Terminal()
    async with Screen(stream).waiting("nothing"):
        pass
    assert stream.getvalue() == ""


def test_a_text_that_comes_in_pieces_is_indented() -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    screen.begin_text()
    screen.piece("one\n")
    screen.piece("two")
    screen.end_text()
    assert stream.getvalue() == "     → one\n       two\n"


def test_a_table_is_aligned_by_what_the_terminal_shows() -> None:
    stream = io.StringIO()
    Screen(stream).table(("name", "n"), [("茶", 1), ("tea", 10)])
    assert stream.getvalue().splitlines() == [
        "       name  n",
        "       茶    1",
        "       tea   10",
    ]


def test_a_stream_that_cannot_say_it_gets_a_replacement() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    Screen(stream).line("茶")
    assert raw.getvalue() == b"?\n"


def test_texts_are_measured_and_cut_in_columns() -> None:
    assert columns("a茶") == 3
    assert fit("one\n two", 20) == "one two"
    assert fit("茶茶茶", 6) == "茶茶茶"
    assert columns(fit("茶茶茶茶", 6)) <= 6
    assert fit("abcdef", 4) == "abc…"
    assert wrap("abcdef", 3, 3) == ["abc", "def"]
    assert wrap("abcdefgh", 3, 2) == ["abc", "de…"]
    assert wrap("one two three", 8, 3) == ["one two", "three"]
    assert wrap("茶茶茶", 4, 3) == ["茶茶", "茶"]
    assert wrap("", 3, 2) == []
