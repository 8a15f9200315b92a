"""Units of work as a tool."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mcp_server.plugins import Call, tool
from mcp_server.services.units import DocumentPart, KeyPart, ObjectPart, RowPart, WrittenTogether


@tool(verb="write")
async def write_together(
    call: Call,
    rows: Annotated[
        list[RowPart] | None, Field(description="statements on your own tables, in this order")
    ] = None,
    keys: Annotated[list[KeyPart] | None, Field(description="with value, or delete: true")] = None,
    objects: Annotated[
        list[ObjectPart] | None, Field(description="with text or base64, or delete: true")
    ] = None,
    documents: Annotated[
        list[DocumentPart] | None, Field(description="with text, or delete: true")
    ] = None,
) -> WrittenTogether:
    """Write rows, keys, objects and documents: all of them or none."""
    return await call.services.units.write_together(
        call.principal,
        rows=rows or (),
        keys=keys or (),
        objects=objects or (),
        documents=documents or (),
        idempotency_key=call.key,
        deadline=call.deadline,
    )
