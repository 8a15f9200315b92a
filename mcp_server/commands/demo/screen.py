"""What the demo shows: numbered steps, calls and their results, and that it is still at work."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TextIO

# On a terminal a spinner appears after this long; elsewhere a line is printed after one second.
SPIN_AFTER_SECONDS = 0.4
SAY_AFTER_SECONDS = 1.0
SAY_AGAIN_SECONDS = 10.0
_FALLBACK_COLUMNS = 100
_MOST_CALL_LINES = 3
_MOST_COLUMNS = 120
_SPINNER = "|/-\\"
_BOLD, _DIM, _RED, _GREEN, _CYAN = "1", "2", "31", "32", "36"


class Screen:
    """Writes to a stream; colours and the spinner only on a terminal, and no colours with NO_COLOR set."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        reconfigure = getattr(self._stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for Chinese
        self._tty = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = self._tty and not os.environ.get("NO_COLOR")
        size = shutil.get_terminal_size((_FALLBACK_COLUMNS, 24))
        self._columns = min(size.columns if self._tty else _FALLBACK_COLUMNS, _MOST_COLUMNS)
        self._started = time.monotonic()
        self._waiting = ""
        self._spinning = False

    @property
    def seconds(self) -> float:
        """How long this screen has been open."""
        return time.monotonic() - self._started

    def line(self, text: str = "") -> None:
        """Write one line as it is."""
        if self._spinning:
            self._clear()
        print(text, file=self._stream, flush=True)

    def step(self, number: int, of: int, title: str) -> None:
        self.line()
        self.line(self._paint(f"{number}/{of}  {title}", _BOLD))

    def call(self, name: str, arguments: str = "") -> None:
        """Show what is called, on three lines at most."""
        lines = wrap(f"{name} {arguments}".rstrip(), self._columns - 7, _MOST_CALL_LINES) or [name]
        self.line(f"     {self._paint(name, _CYAN)}{self._paint(lines[0][len(name) :], _DIM)}")
        for rest in lines[1:]:
            self.line(self._paint(f"       {rest}", _DIM))

    def result(self, value: Any) -> None:
        """Show what came back on one line; anything but text as JSON."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        self.line(f"     → {fit(text, self._columns - 7)}")

    def note(self, text: str) -> None:
        """Say something about it, in full."""
        self.line(self._paint(f"     {text}", _DIM))

    def good(self, text: str) -> None:
        self.line(self._paint(text, _GREEN))

    def bad(self, text: str) -> None:
        self.line(self._paint(text, _RED))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Show a few rows under their column names."""
        cells = [list(header), *([str(cell) for cell in row] for row in rows)]
        widths = [max(columns(row[index]) for row in cells) for index in range(len(header))]
        for number, row in enumerate(cells):
            padded = (
                cell + " " * (width - columns(cell))
                for cell, width in zip(row, widths, strict=True)
            )
            text = fit("  ".join(padded).rstrip(), self._columns - 7)
            self.line(f"       {self._paint(text, _DIM) if number == 0 else text}")

    def begin_text(self) -> None:
        """Begin a text that comes in pieces."""
        self._write("     → ")

    def piece(self, text: str) -> None:
        """Write one piece of it, lines of it indented."""
        self._write(text.replace("\n", "\n       "))

    def end_text(self) -> None:
        self.line()

    @asynccontextmanager
    async def waiting(self, what: str) -> AsyncGenerator[None]:
        """Show that `what` goes on, and for how long, once it takes a moment."""
        self._waiting = what
        task = asyncio.create_task(self._spin() if self._tty else self._say())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._spinning:
                self._clear()
                self._spinning = False

    def now(self, what: str) -> None:
        """Change what is waited for."""
        self._waiting = what

    async def _spin(self) -> None:
        started = time.monotonic()
        await asyncio.sleep(SPIN_AFTER_SECONDS)
        turn, self._spinning = 0, True
        while True:
            seconds = time.monotonic() - started
            text = f"     {_SPINNER[turn % 4]} {self._waiting} ({seconds:.1f} s)"
            self._clear()
            self._write(self._paint(fit(text, self._columns - 1), _DIM))
            turn += 1
            await asyncio.sleep(0.1)

    async def _say(self) -> None:
        started = time.monotonic()
        await asyncio.sleep(SAY_AFTER_SECONDS)
        while True:
            self.line(f"     … {self._waiting} ({time.monotonic() - started:.0f} s)")
            await asyncio.sleep(SAY_AGAIN_SECONDS)

    def _clear(self) -> None:
        self._write("\r\x1b[2K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours and text else text


def columns(text: str) -> int:
    """Return how many terminal columns a text takes: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def wrap(text: str, room: int, most: int) -> list[str]:
    """Return a text as lines of at most `room` columns, the last of `most` cut.

    A line breaks at a blank in its second half, else anywhere: Chinese has none.
    """
    lines: list[str] = []
    while text:
        end = _fitting(text, room)
        if end == len(text):
            return [*lines, text]
        if len(lines) + 1 == most:
            return [*lines, fit(text, room)]
        blank = text.rfind(" ", end // 2, end + 1)
        lines.append(text[: end if blank < 0 else blank])
        text = text[end:] if blank < 0 else text[blank + 1 :]
    return lines


def _fitting(text: str, room: int) -> int:
    """Return how many characters of a text fit into `room` columns."""
    taken = 0
    for index, char in enumerate(text):
        taken += columns(char)
        if taken > room:
            return index
    return len(text)


def fit(text: str, room: int) -> str:
    """Return a text on one line, cut to `room` columns."""
    text = " ".join(text.split()) if "\n" in text else text
    if columns(text) <= room:
        return text
    return text[: _fitting(text, room - 1)] + "…"
