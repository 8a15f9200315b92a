"""What can be done with schedules and triggers alike: named rows of a tenant, each one operation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from uuid import uuid4

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Table,
    and_,
    delete,
    false,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import TypedDict

from mcp_server import journal, policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.runs.standing import Owner, Stop, scopes_now, standing, stop_dead
from mcp_server.services import names
from mcp_server.services.standing_work import WorkStarter
from mcp_server.storage.sql.run_tables import runs
from mcp_server.timestamps import iso

Kind: TypeAlias = Literal["schedule", "trigger"]
Item = TypeVar("Item")

Change: TypeAlias = Callable[[AsyncConnection, Row[Any]], Awaitable[dict[str, Any]]]
"""Return the columns to change of a row that the transaction holds."""

MOST_ROWS = 1000


class LastRun(TypedDict):
    """The run that one started last, while it is kept, and what became of it; times are ISO 8601 in UTC."""

    run: str
    status: str
    ended_at: str | None


_VERSION = text("select next_version(:tenant)")
_LOCK_TENANT = text("select from tenants where name = :tenant for no key update")


class StandingRows(Generic[Item]):
    """Every method is one operation on `schedule://NAME` or `trigger://NAME`; the subclass says which."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        starter: WorkStarter,
        table: Table,
        kind: Kind,
        changed: Callable[[], None],
    ) -> None:
        self._operation = operation
        self._control = control
        self._starter = starter
        self._table = table
        self._kind: Kind = kind
        self._changed = changed

    def _item(self, row: Row[Any]) -> Item:
        raise NotImplementedError

    async def _begin_again(self, tx: AsyncConnection, row: Row[Any]) -> dict[str, Any]:
        """Return the columns with which a row that was paused or stopped goes on from now."""
        raise NotImplementedError

    async def get(self, principal: Principal, name: str) -> Item:
        """Return one.

        Raises:
            NotFound: there is none of that name.
        """
        async with self._operation(principal, "read", self._uri(name)):
            async with self._control.connect() as tx:
                return self._item(await self._load(tx, principal, name))

    async def list(self, principal: Principal) -> list[Item]:
        """Return all that the caller may see, in the order of their names."""
        base = f"{self._kind}://"
        visible = policy.scope(principal, "read", self._kind).within(base)
        name = self._table.c.name
        query = self._select().where(self._table.c.tenant == principal.tenant).order_by(name)
        if visible is not None:
            query = query.where(or_(false(), *(func.starts_with(name, p) for p in visible)))
        async with self._operation(principal, "read", policy.Listing(base)):
            async with self._control.connect() as tx:
                return [self._item(row) for row in (await tx.execute(query)).all()]

    async def delete(
        self, principal: Principal, name: str, *, idempotency_key: str | None = None
    ) -> bool:
        """Delete one and tell whether it was there; runs that it started go on."""
        at = self._at(principal, name)
        uri = self._uri(name)
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            async with self._control.begin() as tx:
                known = await op.replay(tx)
                if known is not None:
                    return known["deleted"]
                gone = delete(self._table).where(at).returning(self._table.c.version)
                version = await tx.scalar(gone)
                if version is not None:
                    await op.journal(tx, verb="delete", prev_version=version)
                await op.remember(tx, {"deleted": version is not None})
        return version is not None

    async def pause(
        self, principal: Principal, name: str, *, idempotency_key: str | None = None
    ) -> Item:
        """Let one rest until it is resumed or saved again; what would start it meanwhile is not made up for.

        Raises:
            NotFound: there is none of that name.
        """
        at = "next_fire_at" if self._kind == "schedule" else "fire_at"

        async def rest(tx: AsyncConnection, row: Row[Any]) -> dict[str, Any]:
            del tx, row
            return {"enabled": False, at: None}

        return await self._change(principal, name, rest, idempotency_key)

    async def resume(
        self, principal: Principal, name: str, *, idempotency_key: str | None = None
    ) -> Item:
        """Let one that was paused or stopped go on from now, with the rights of whoever saved it.

        Raises:
            NotFound: there is none of that name. Conflict: its owner may not start its work any more.
        """

        async def go_on(tx: AsyncConnection, row: Row[Any]) -> dict[str, Any]:
            if row.enabled and row.stopped is None:
                return {}
            found = standing(row, self._kind)
            try:
                self._starter.check(found, await scopes_now(tx, found.owner))
            except Stop as order:
                raise Conflict(order.reason) from order
            return {"enabled": True, "stopped": None} | await self._begin_again(tx, row)

        return await self._change(principal, name, go_on, idempotency_key)

    async def stop_dead(self) -> int:
        """Stop those whose key is dead or may not start their work any more; return how many."""
        count = await stop_dead(self._control, self._table, self._kind, self._starter, journal_stop)
        if count:
            self._changed()
        return count

    async def _change(
        self, principal: Principal, name: str, change: Change, idempotency_key: str | None
    ) -> Item:
        async with self._operation(principal, "write", self._uri(name), key=idempotency_key) as op:
            async with self._control.begin() as tx:
                known = await op.replay(tx)
                if known is not None:
                    return known
                row = await self._load(tx, principal, name, lock=True)
                values = await change(tx, row)
                if values:
                    values["version"] = await tx.scalar(_VERSION, {"tenant": principal.tenant})
                    await tx.execute(
                        update(self._table).where(self._table.c.id == row.id).values(values)
                    )
                    await op.journal(tx, version=values["version"], prev_version=row.version)
                return await op.remember(tx, self._item(await self._load(tx, principal, name)))

    async def _put(
        self, tx: AsyncConnection, op: Operation, before: Row[Any] | None, values: dict[str, Any]
    ) -> Item:
        """Write one whole, with the grant of its writer, and return it."""
        principal = op.principal
        version = await tx.scalar(_VERSION, {"tenant": principal.tenant})
        values = values | {
            "subject": principal.subject,
            "key_id": principal.key_id,
            "grant_scopes": sorted(principal.scopes),
            "enabled": True,
            "stopped": None,
            "version": version,
        }
        if before is None:
            row = {"id": f"{self._kind}_{uuid4().hex}", "tenant": principal.tenant, **values}
            await tx.execute(insert(self._table).values(created_at=func.now(), **row))
        else:
            await tx.execute(
                update(self._table).where(self._table.c.id == before.id).values(values)
            )
        await op.journal(tx, version=version, prev_version=before.version if before else None)
        return await op.remember(tx, self._item(await self._load(tx, principal, values["name"])))

    async def _before(
        self, tx: AsyncConnection, principal: Principal, name: str
    ) -> Row[Any] | None:
        """Lock the row that a save replaces; refuse one too many."""
        query = select(self._table).where(self._at(principal, name)).with_for_update()
        row = (await tx.execute(query)).first()
        if row is not None:
            return row
        # Two first saves of one name come one after the other.
        await tx.execute(_LOCK_TENANT, {"tenant": principal.tenant})
        row = (await tx.execute(query)).first()
        if row is None:
            own = self._table.c.tenant == principal.tenant
            count = await tx.scalar(select(func.count()).select_from(self._table).where(own)) or 0
            if count >= MOST_ROWS:
                raise LimitExceeded(
                    f"name: there are {count} {self._kind}s already, the most allowed"
                )
        return row

    async def _load(
        self, tx: AsyncConnection, principal: Principal, name: str, *, lock: bool = False
    ) -> Row[Any]:
        query = self._select().where(self._at(principal, name))
        held = query.with_for_update(of=self._table) if lock else query
        row = (await tx.execute(held)).first()
        if row is None:
            raise NotFound(f"{self._kind} {name!r} does not exist", param="name")
        return row

    def _select(self) -> Select[Any]:
        """Return the query of all rows, each with what became of the run that it started last."""
        last = (
            select(func.jsonb_build_array(runs.c.id, runs.c.status, runs.c.ended_at))
            .where(runs.c.id == self._table.c.last_run, runs.c.tenant == self._table.c.tenant)
            .scalar_subquery()
        )
        return select(self._table, last.label("last"))

    def _at(self, principal: Principal, name: str) -> ColumnElement[bool]:
        return and_(self._table.c.tenant == principal.tenant, self._table.c.name == name)

    def _uri(self, name: str) -> str:
        """Return the URI; the name is a part of a path, so it holds no slash."""
        if "/" in names.container(name, "name"):
            raise InvalidInput(f"name: {name!r} holds a slash; use . _ or - instead", param="name")
        return f"{self._kind}://{name}"


def last_run(row: Row[Any]) -> LastRun | None:
    """Read what became of the run that one started last, None if there is none any more."""
    if row.last is None:
        return None
    run, status, ended_at = row.last
    ended = None if ended_at is None else iso(datetime.fromisoformat(ended_at))
    return LastRun(run=run, status=status, ended_at=ended)


async def journal_stop(
    tx: AsyncConnection, kind: str, owner: Owner, name: str, reason: str
) -> None:
    """Journal that a schedule or trigger was stopped."""
    del reason  # it stands in the row
    await journal.append(
        tx,
        tenant=owner.tenant,
        subject=owner.subject,
        verb="stopped",
        uri=f"{kind}://{name}",
        version=None,
        prev_version=None,
        run=None,
        step=None,
        labels=[],
    )
