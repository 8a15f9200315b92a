"""Requests that are sent again with the same idempotency key: made once, and answered alike for a day."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from anyio import CancelScope
from sqlalchemy import ColumnElement, Delete, Update, and_, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, InvalidInput
from mcp_server.services.purging import EVERY_SECONDS, purging
from mcp_server.storage.sql.idempotency_tables import idempotent_answers

logger = logging.getLogger(__name__)

KEPT_HOURS = 24
LEASE_SECONDS = 60.0
"""How long a request is taken to be under way whose process is not heard of."""

_columns = idempotent_answers.c


class KeyReused(InvalidInput):
    """The same key came with another request."""

    status = 422


class Claim:
    """The right to answer a request."""

    def __init__(self, control: AsyncEngine, mine: ColumnElement[bool]) -> None:
        self._control = control
        self._mine = mine
        self.kept = False

    async def keep(self, answer: bytes) -> None:
        """Keep a JSON text for those who send the request again."""
        await self._write(update(idempotent_answers).values(answer=answer.decode()))
        self.kept = True

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """Hold the claim while the body runs; give it up if nothing was kept."""
        keeper = asyncio.create_task(self._renew(), name="idempotency-claim")
        try:
            yield
        finally:
            keeper.cancel()
            if not self.kept:
                # Whoever cuts the request would leave the key taken for the rest of its lease.
                with CancelScope(shield=True):
                    await self._write(delete(idempotent_answers))

    async def _renew(self) -> None:
        until = func.clock_timestamp() + _seconds(LEASE_SECONDS)
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            await self._write(update(idempotent_answers).values(claimed_until=until))

    async def _write(self, statement: Update | Delete) -> None:
        """Change the claim's row, if the claim still has it."""
        try:
            async with self._control.begin() as tx:
                await tx.execute(statement.where(self._mine))
        except (SQLAlchemyError, OSError) as error:
            # What was done is done: its caller is told so, and only a repeated request has to wait.
            logger.warning("idempotency: a claim cannot be changed (%s)", error)


class IdempotencyService:
    """A part of the door, and no operation itself: what it lets through once is one, and only its caller sees its answer."""

    def __init__(self, control: AsyncEngine) -> None:
        self._control = control

    @asynccontextmanager
    async def once(
        self, principal: Principal, key: str, fingerprint: str
    ) -> AsyncGenerator[str | Claim]:
        """Yield the answer that this caller got to the same request, or a claim to make one.

        A claim without an answer is given up: the next request with the key begins anew.

        Raises:
            KeyReused: the key was sent with another request.
            Conflict: the same request is under way.
        """
        caller = principal.key_id or f"{principal.tenant}/{principal.subject}"
        place = (
            _columns.tenant == principal.tenant,
            _columns.caller == caller,
            _columns.key == key,
        )
        token = secrets.token_hex(12)
        row = {"tenant": principal.tenant, "caller": caller, "key": key, "claim": token}
        if not await self._claimed({**row, "fingerprint": fingerprint}):
            yield await self._known(and_(*place), fingerprint)
            return
        claim = Claim(self._control, and_(*place, _columns.claim == token))
        async with claim.held():
            yield claim

    async def _claimed(self, row: dict[str, str]) -> bool:
        now = func.clock_timestamp()
        given = {
            **row,
            "answer": None,
            "claimed_until": now + _seconds(LEASE_SECONDS),
            "expires_at": now + _seconds(KEPT_HOURS * 3600),
        }
        statement = insert(idempotent_answers).values(**given)
        free = or_(
            _columns.expires_at <= now,
            and_(_columns.answer.is_(None), _columns.claimed_until <= now),
        )
        statement = statement.on_conflict_do_update(
            index_elements=["tenant", "caller", "key"], set_=given, where=free
        )
        async with self._control.begin() as tx:
            taken = await tx.execute(statement.returning(_columns.claim))
            return taken.scalar_one_or_none() is not None

    async def _known(self, place: ColumnElement[bool], fingerprint: str) -> str:
        query = select(_columns.fingerprint, _columns.answer).where(place)
        async with self._control.connect() as tx:
            found = (await tx.execute(query)).one_or_none()
        if found is not None and found.fingerprint != fingerprint:
            raise KeyReused(
                "Idempotency-Key: this key came with another request within a day; give each "
                "request a key of its own, and a repeated one the same body.",
                param=None,
            )
        if found is None or found.answer is None:
            raise Conflict(
                "Idempotency-Key: a request with this key is under way; try again in a moment."
            )
        return found.answer


def _seconds(number: float) -> ColumnElement[object]:
    return text(f"interval '{number} seconds'")  # pyright: ignore[reportReturnType]


@asynccontextmanager
async def open_idempotency(
    control: AsyncEngine, every_seconds: float = EVERY_SECONDS
) -> AsyncGenerator[IdempotencyService]:
    """Yield the service, and delete expired answers while it is open."""
    async with purging(control, idempotent_answers.name, every_seconds):
        yield IdempotencyService(control)
