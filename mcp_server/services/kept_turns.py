"""Turns of a chat in which server and client both have calls to run: kept until the client's results come."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.purging import EVERY_SECONDS, purging
from mcp_server.storage.sql.chat_tables import kept_turns

# A client sends its history again with each request, so a turn is needed as long as its chat lives.
KEPT_DAYS = 30


@dataclass(frozen=True, slots=True)
class KeptTurn:
    """The messages of a turn, and the ids that the model gave to the client's calls in it."""

    transcript: list[dict[str, Any]]
    calls: list[str]


class TurnService:
    """Keeping and recalling are parts of running the model; a turn is recalled only by the key that made it."""

    def __init__(self, operation: Operations, control: AsyncEngine) -> None:
        self._operation = operation
        self._control = control

    async def keep(
        self, principal: Principal, uri: str, transcript: Sequence[Any], calls: Sequence[str]
    ) -> str:
        """Keep a turn of what `uri` answers, for 30 days; return its id: 24 hexadecimal digits."""
        turn = secrets.token_hex(12)
        row = {
            "id": turn,
            "tenant": principal.tenant,
            "subject": principal.subject,
            "key_id": principal.key_id,
            "transcript": list(transcript),
            "calls": list(calls),
            "expires_at": func.now() + text(f"interval '{KEPT_DAYS} days'"),
        }
        async with self._operation(principal, "run", uri), self._control.begin() as tx:
            await tx.execute(insert(kept_turns).values(**row))
        return turn

    async def recall(
        self, principal: Principal, uri: str, turns: Collection[str]
    ) -> dict[str, KeptTurn]:
        """Return those of `turns` that this caller made and that are still there."""
        columns = kept_turns.c
        query = select(kept_turns).where(
            columns.id.in_(turns),
            columns.tenant == principal.tenant,
            columns.subject == principal.subject,
            columns.key_id.is_not_distinct_from(principal.key_id),
            columns.expires_at > func.clock_timestamp(),
        )
        async with self._operation(principal, "run", uri), self._control.connect() as tx:
            rows = (await tx.execute(query)).all()
        return {row.id: KeptTurn(row.transcript, row.calls) for row in rows}


@asynccontextmanager
async def open_turns(
    operation: Operations, control: AsyncEngine, every_seconds: float = EVERY_SECONDS
) -> AsyncGenerator[TurnService]:
    """Yield the service, and delete expired turns while it is open."""
    async with purging(control, kept_turns.name, every_seconds):
        yield TurnService(operation, control)
