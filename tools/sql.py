"""SQL tools."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mcp_server.plugins import Call, Preview, tool
from mcp_server.services.sql import Detail, SqlOutcome, SqlPlan, SqlRows, SqlTables

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


@tool(verb="write", preview=Preview(given={"preview": True}, unless=("database",)))
async def sql_execute(
    call: Call,
    sql: str,
    params: Params = None,
    max_rows: int = 1000,
    cursor: Cursor = None,
    database: Database = None,
    preview: Annotated[
        bool, Field(description="show what it would change, and roll it back")
    ] = False,
) -> SqlOutcome:
    """Run and commit one PostgreSQL statement on your own tables: create table, insert, update, …"""
    return await call.services.sql.execute(
        call.principal,
        sql,
        params,
        max_rows=max_rows,
        cursor=cursor,
        database=database,
        preview=preview,
        deadline=call.deadline,
        key=call.key,
    )


@tool(verb="read", read_only=True, destructive=False)
async def sql_explain(
    call: Call,
    sql: str,
    params: Params = None,
    analyze: Annotated[bool, Field(description="run it to measure; only for a SELECT")] = False,
    database: Database = None,
) -> SqlPlan:
    """Show how PostgreSQL would run a statement, with its estimated costs."""
    return await call.services.sql.explain(
        call.principal,
        sql,
        params,
        analyze=analyze,
        database=database,
        deadline=call.deadline,
    )


@tool(verb="read", read_only=True, destructive=False)
async def sql_schema(
    call: Call,
    pattern: Annotated[
        str | None, Field(description="of a table or column; * and ? are wildcards")
    ] = None,
    detail: Detail = "summary",
    database: Database = None,
) -> SqlTables:
    """Describe your tables and views."""
    return await call.services.sql.schema(
        call.principal, pattern, detail, database=database, deadline=call.deadline
    )
