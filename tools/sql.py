"""SQL tools."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mcp_server.plugins import Call, tool
from mcp_server.services.sql import Detail, SqlRows, SqlTables

Params = Annotated[
    list[Any] | None,
    Field(description="values of $1, $2, …; a string in PostgreSQL's text form fits any type"),
]
Cursor = Annotated[
    str | None, Field(description="next_cursor of the same statement; runs it again")
]
Database = Annotated[str | None, Field(description="another configured database")]


@tool(verb="read", read_only=True, destructive=False)
async def sql_query(
    call: Call,
    sql: str,
    params: Params = None,
    max_rows: int = 1000,
    cursor: Cursor = None,
    database: Database = None,
) -> SqlRows:
    """Run one PostgreSQL SELECT on your own tables."""
    return await call.services.sql.query(
        call.principal,
        sql,
        params,
        max_rows=max_rows,
        cursor=cursor,
        database=database,
        deadline=call.deadline,
    )


@tool(verb="write")
async def sql_execute(
    call: Call,
    sql: str,
    params: Params = None,
    max_rows: int = 1000,
    cursor: Cursor = None,
    database: Database = None,
) -> SqlRows:
    """Run and commit one PostgreSQL statement on your own tables: create table, insert, update, …"""
    return await call.services.sql.execute(
        call.principal,
        sql,
        params,
        max_rows=max_rows,
        cursor=cursor,
        database=database,
        deadline=call.deadline,
        key=call.key,
    )


@tool(verb="read", read_only=True, destructive=False)
async def sql_schema(
    call: Call,
    pattern: Annotated[str | None, Field(description="name with * as wildcard")] = None,
    detail: Detail = "summary",
    database: Database = None,
) -> SqlTables:
    """Describe your tables and views."""
    return await call.services.sql.schema(
        call.principal, pattern, detail, database=database, deadline=call.deadline
    )
