"""Source code of any language: cut before definitions, which unindented lines begin."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mcp_server.ingest.characters import decode
from mcp_server.ingest.parsed import Parsed, Section
from mcp_server.ingest.source import Source

MEDIA_TYPES = (
    *(
        "text/x-python",
        "text/javascript",
        "application/javascript",
        "application/typescript",
        "text/css",
    ),
    *(
        "text/x-c",
        "text/x-c++",
        "text/x-java",
        "text/x-java-source",
        "text/x-go",
        "text/x-rust",
        "text/x-ruby",
    ),
    *(
        "text/x-shellscript",
        "application/x-sh",
        "application/sql",
        "text/x-sql",
        "application/xml",
        "text/xml",
    ),
    *(
        "application/yaml",
        "application/x-yaml",
        "text/yaml",
        "application/toml",
        "application/x-httpd-php",
    ),
)
SUFFIXES = (
    *(
        ".py",
        ".pyi",
        ".js",
        ".mjs",
        ".cjs",
        ".jsx",
        ".ts",
        ".tsx",
        ".vue",
        ".svelte",
        ".css",
        ".scss",
        ".less",
    ),
    *(
        ".c",
        ".h",
        ".cc",
        ".cpp",
        ".cxx",
        ".hpp",
        ".cs",
        ".java",
        ".kt",
        ".kts",
        ".scala",
        ".groovy",
        ".go",
    ),
    *(
        ".rs",
        ".rb",
        ".php",
        ".swift",
        ".m",
        ".mm",
        ".dart",
        ".lua",
        ".pl",
        ".pm",
        ".r",
        ".jl",
        ".hs",
        ".ml",
    ),
    *(
        ".ex",
        ".exs",
        ".erl",
        ".clj",
        ".lisp",
        ".el",
        ".zig",
        ".nim",
        ".sh",
        ".bash",
        ".zsh",
        ".ps1",
        ".sql",
    ),
    *(
        ".xml",
        ".xsd",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".cfg",
        ".conf",
        ".proto",
        ".graphql",
        ".tf",
    ),
    *(".dockerfile", ".cmake", ".gradle", ".sol", ".v", ".vhd", ".asm", ".s"),
)
INLINE_BYTES = 262_144  # its sections may be as many as its lines

_LINE = re.compile(r"[^\n]*\n|[^\n]+\Z")
_DEFINITION = re.compile(
    r"(?:[\w@:<>\[\],*&()]{1,60}[ \t]+){0,6}?"
    r"(?:def|class|func|function|fn|struct|enum|interface|trait|impl|module|namespace|type|object|protocol|"
    r"extension|contract|procedure|sub|defmodule|defp|message|service|resource|macro_rules!|"
    r"(?i:create)[ \t]+(?:or[ \t]+replace[ \t]+)?\w+)\b[^=\n]{0,200}"
)
# What stands directly above a definition and belongs to it: decorators, attributes and comments.
_ABOVE = ("@", "#", "//", "/*", " *", "--", ";;", "%%", '"""', "'''")
_MOST_HEADING = 120


def sniff(head: bytes) -> bool:
    """Tell a script by its first line."""
    return head.startswith(b"#!")


def parse(source: Source) -> Parsed:
    """Return the source with a section for each definition that begins a line.

    Raises:
        Unreadable: it is no text.
    """
    text = decode(source)
    begins = [(0, ()), *_definitions(text)]
    ends = [*(start for start, _ in begins[1:]), len(text)]
    sections = tuple(
        Section(start, end, headings, kind="code")
        for (start, headings), end in zip(begins, ends, strict=True)
        if start < end
    )
    return Parsed(text, None, "text/plain", sections)


def _definitions(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield where each definition begins, and its first line."""
    above: int | None = None
    for line in _LINE.finditer(text):
        if _DEFINITION.match(line[0]):
            heading = line[0].strip().rstrip("{:").rstrip()[:_MOST_HEADING]
            yield (line.start() if above is None else above), (heading,)
            above = None
        elif line[0].startswith(_ABOVE):
            above = line.start() if above is None else above
        else:
            above = None
