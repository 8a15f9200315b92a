"""A document's bytes as a parser gets them, and what it says of one that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass

# Of the text of one document, whatever it was parsed from.
MAX_TEXT_CHARACTERS = 8_000_000
MAX_SECTIONS = 100_000


class Unreadable(ValueError):
    """A document that has no text; the message says why, for whoever sent it."""


class UnknownKind(Unreadable):
    """A document of a kind that is not read at all."""


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of a document, and what was declared of them: `charset`, `name` (of a file or a URL)."""

    body: bytes
    charset: str | None = None
    name: str = ""

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot, in lower case."""
        last = self.name.rpartition("/")[2]
        return f".{last.rpartition('.')[2].lower()}" if "." in last else ""
