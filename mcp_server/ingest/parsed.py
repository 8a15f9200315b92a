"""What parsing gives: a document's text, and how its parts lie in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "table", "code"]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a text: characters `start` to `end` (exclusive), under `headings` from the outermost in.

    It begins where a line does. `page` counts from 1. In a `table` a line is a row, in `code` indentation
    tells what belongs together.
    """

    start: int
    end: int
    headings: tuple[str, ...] = ()
    page: int | None = None
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document as text. Its sections lie end to end and cover the text; none at all is one plain section."""

    text: str
    title: str | None = None
    media_type: str = "text/plain"
    sections: tuple[Section, ...] = ()
