"""What a tenant can do: a corpus of everyday PostgreSQL, run in order on the real database."""

from __future__ import annotations

from pathlib import Path

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError
from mcp_server.services.sql import SqlService

ALLOWED = Path(__file__).parent / "corpus" / "allowed.sql"


async def test_everyday_statements_work(sql: SqlService, principal: Principal) -> None:
    failed: list[str] = []
    for statement in ALLOWED.read_text(encoding="utf-8").splitlines():
        if statement.startswith("-- "):
            continue
        try:
            await sql.execute(principal, statement)
        except AppError as error:
            failed.append(f"{statement}\n    {error}")
    assert not failed, "\n".join(failed)
    assert (await sql.schema(principal))["tables"] == []
