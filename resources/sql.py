"""Tables as resources."""

from __future__ import annotations

import json

from mcp_server.plugins import Call, Content, resource


@resource("sql://{schema}/{table}", mime_type="application/json")
async def sql_table(call: Call, schema: str, table: str) -> Content:
    """A table's definition and first rows; `main` is your own schema."""
    return Content(
        json.dumps(
            await call.services.sql.table(call.principal, schema, table), ensure_ascii=False
        ),
        "application/json",
    )
