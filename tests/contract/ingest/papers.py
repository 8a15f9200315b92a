"""Real documents, made when they are asked for: PDF as bytes, Word by its library."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import docx


def pdf(pages: Sequence[str], *, title: str = "", outline: Sequence[tuple[str, int]] = ()) -> bytes:
    """Make a PDF with a line of text on each page; `outline` names headings and their pages from 0."""
    count = len(pages)
    first_page, first_item = 5, 5 + 2 * count
    kids = " ".join(f"{first_page + 2 * number} 0 R" for number in range(count))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {'/Outlines 4 0 R' if outline else ''} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Type /Outlines /First {first_item} 0 R /Last {first_item + len(outline) - 1} 0 R >>"
        if outline
        else f"<< /Title ({title}) >>",
    ]
    for number, text in enumerate(pages):
        lines = "".join(f"({line}) Tj T* " for line in text.split("\n"))
        content = f"BT /F1 12 Tf 14 TL 50 700 Td {lines}ET" if text else ""
        at = first_page + 2 * number
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {at + 1} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    for number, (heading, page) in enumerate(outline):
        following = f"/Next {first_item + number + 1} 0 R" if number + 1 < len(outline) else ""
        objects.append(
            f"<< /Title ({heading}) /Parent 4 0 R {following} /Dest [{first_page + 2 * page} 0 R /Fit] >>"
        )
    objects.append(f"<< /Title ({title}) >>")
    return _file(objects, f"/Root 1 0 R /Info {len(objects)} 0 R")


def encrypted_pdf() -> bytes:
    """Make a PDF that says that it is encrypted with a password which nobody has."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [] /Count 0 >>",
        f"<< /Filter /Standard /V 1 /R 2 /O <{'ab' * 32}> /U <{'cd' * 32}> /P -4 >>",
    ]
    return _file(objects, f"/Root 1 0 R /Encrypt 3 0 R /ID [<{'00' * 16}> <{'00' * 16}>]")


def _file(objects: Sequence[str], trailer: str) -> bytes:
    made = bytearray(b"%PDF-1.4\n")
    places: list[int] = []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    start = len(made)
    made += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    made += (
        f"trailer\n<< /Size {len(objects) + 1} {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
    )
    return bytes(made)


def word() -> bytes:
    document = docx.Document()
    document.core_properties.title = "The handbook"
    document.add_heading("Bridges", level=1)
    document.add_paragraph("A bridge carries a road over water.")
    document.add_heading("Spans", level=2)
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(table.rows[0].cells, ("name", "metres"), strict=True):
        cell.text = text
    for cell, text in zip(table.rows[1].cells, ("金门大桥", "1280"), strict=True):
        cell.text = text
    document.add_paragraph("Measured between towers.")
    return _saved(document)


def _saved(document: object) -> bytes:
    made = io.BytesIO()
    document.save(made)  # pyright: ignore[reportAttributeAccessIssue]
    return made.getvalue()


def with_part(document: bytes, name: str, content: bytes) -> bytes:
    """Replace one part of a Word document."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(document)) as old,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.infolist():
            new.writestr(part.filename, content if part.filename == name else old.read(part))
        if name not in old.namelist():
            new.writestr(name, content)
    return made.getvalue()
