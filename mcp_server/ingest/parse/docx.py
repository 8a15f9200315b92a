"""Word documents: headings, paragraphs and tables in their order."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

from mcp_server.ingest.composing import Composer
from mcp_server.ingest.parsed import Parsed
from mcp_server.ingest.source import Source, Unreadable

MEDIA_TYPES = ("application/vnd.openxmlformats-officedocument.wordprocessingml.document",)
SUFFIXES = (".docx",)
INLINE_BYTES = 0
# Of all that is packed in it, unpacked: the library unpacks everything.
MOST_BYTES = 192 * 1024 * 1024
MOST_PARTS = 5000

_HEADING = re.compile(r"heading ([1-9])", re.IGNORECASE)


def sniff(head: bytes) -> bool:
    """Tell by what an archive of its kind begins with; other writers are found by their suffix."""
    return head.startswith(b"PK\x03\x04") and b"word/" in head


def parse(source: Source) -> Parsed:
    """Return the text of the body, rows of tables as lines with their cells between ` | `.

    Raises:
        Unreadable: it is no document of Word, encrypted, would unpack to too much, or has no text.
    """
    _look_inside(source.body)
    import docx
    from docx.table import Table

    document: Any = docx.Document(io.BytesIO(source.body))
    composer = Composer()
    for item in document.iter_inner_content():
        if isinstance(item, Table):
            composer.block("\n".join(_rows(item)), "table")
            continue
        style = (item.style.name or "") if item.style is not None else ""
        heading = _HEADING.fullmatch(style)
        if heading is not None or style == "Title":
            composer.heading(int(heading[1]) if heading else 1, item.text)
        else:
            composer.block(item.text)
    if composer.is_empty:
        raise Unreadable("it has no text")
    return composer.parsed(MEDIA_TYPES[0], document.core_properties.title)


def _look_inside(body: bytes) -> None:
    """Refuse what would unpack to too much, before anything is unpacked."""
    if body.startswith(b"\xd0\xcf\x11\xe0"):
        raise Unreadable("it is encrypted, or of the old .doc format; store it as a plain .docx")
    try:
        parts = zipfile.ZipFile(io.BytesIO(body)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise Unreadable("it is no .docx, or broken") from error
    names = {part.filename for part in parts}
    if "[Content_Types].xml" not in names:
        raise Unreadable("it is an archive, and no .docx")
    if len(parts) > MOST_PARTS or sum(part.file_size for part in parts) > MOST_BYTES:
        raise Unreadable(f"it unpacks to more than {MOST_BYTES} bytes or {MOST_PARTS} parts")


def _rows(table: Any) -> list[str]:
    rows: list[str] = []
    for row in table.rows:
        cells: list[str] = []
        before = None
        for cell in row.cells:
            if cell._tc is before:  # noqa: SLF001 - a cell that spans several columns is given for each
                continue
            before = cell._tc  # noqa: SLF001 - the same
            cells.append(" ".join(cell.text.split()))
        if any(cells):
            rows.append(" | ".join(cells))
    return rows
