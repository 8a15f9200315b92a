"""Units of work: rows, keys, objects and documents that are written together or not at all."""

from __future__ import annotations

from mcp_server.services.units.parts import DocumentPart, KeyPart, ObjectPart, RowPart, UnitStores
from mcp_server.services.units.recovery import Recovery
from mcp_server.services.units.service import UnitService, WrittenTogether, open_units

__all__ = [
    "DocumentPart",
    "KeyPart",
    "ObjectPart",
    "Recovery",
    "RowPart",
    "UnitService",
    "UnitStores",
    "WrittenTogether",
    "open_units",
]
