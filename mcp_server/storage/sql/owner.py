"""The data database as its owner: makes the tenants' roles and schemas, and reads the catalog for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from mcp_server.errors import Unavailable
from mcp_server.storage.sql import Wanted, catalog, tenant_effects, tenant_erasure
from mcp_server.storage.sql.connections import Role
from mcp_server.storage.sql.control import DISCONNECTED
from mcp_server.storage.sql.fence import Catalog, raise_fence
from mcp_server.storage.sql.tenant_roles import TenantRoles
from mcp_server.storage.sql.values import PgType
from mcp_server.storage.sql.wire import connect_owner

logger = logging.getLogger(__name__)

CONNECTIONS = 2
SECONDS = 30
INSUFFICIENT_PRIVILEGE = "42501"
_RESTORING = "pg_catalog.set_config(text, text, boolean), pg_catalog.pg_is_in_recovery()"
_HOLDS = text("select exists (select from pg_class where relnamespace = to_regnamespace(:schema))")


class Owner:
    """Connects on first use. No statement of a tenant ever runs here.

    Every method raises Unavailable if the database does not answer, or refuses its owner.
    """

    def __init__(self, url: str, secret: bytes) -> None:
        # SQLAlchemy does not know libpq's parameters, so asyncpg reads the URL.
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: connect_owner(url),
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,  # errors are logged, and proofs are not
        )
        self._url = make_url(url)
        self.roles = TenantRoles(secret, self._url.database or "postgres")
        self._catalog: Catalog | None = None
        self._reading = asyncio.Lock()
        self._made: set[str] = set()

    async def aclose(self) -> None:
        await self._engine.dispose()

    async def ping(self) -> None:
        async with self._transaction() as connection:
            await connection.execute(text("select 1"))

    async def catalog(self) -> Catalog:
        """Return what the catalog says, after the fence stands: once per process."""
        if self._catalog is None:
            async with self._reading:
                if self._catalog is None:
                    async with self._transaction() as connection:
                        self._catalog = await raise_fence(connection)
        return self._catalog

    async def ensure(self, schema: str, *, renew: bool = False) -> None:
        """Make the roles and the schema of a tenant, if need be; `renew` sets the passwords again."""
        if schema in self._made and not renew:
            return
        superuser = (await self.catalog()).superuser
        async with self._transaction() as connection:
            await self.roles.ensure(connection, schema, superuser=superuser, renew=renew)
        self._made.add(schema)

    async def holds_tables(self, schema: str) -> bool:
        """Tell whether anything is in a tenant's schema."""
        async with self._transaction() as connection:
            return await connection.scalar(_HOLDS, {"schema": schema}) is True

    @asynccontextmanager
    async def restoring(self, schema: str) -> AsyncGenerator[str]:
        """Yield the URL by which a tenant's writing role may restore a dump while the context is open.

        pg_restore begins with calls of functions that the fence took from all tenants.
        """
        role = Role(schema, True)
        name = self.roles.name(role)
        url = self._url.set(username=name, password=self.roles.password(role))
        fenced = (await self.catalog()).superuser
        if fenced:
            await self._execute(f"grant execute on function {_RESTORING} to {name}")
        try:
            yield url.render_as_string(hide_password=False)
        finally:
            if fenced:
                await self._execute(f"revoke execute on function {_RESTORING} from {name}")

    async def _execute(self, statement: str) -> None:
        async with self._transaction() as connection:
            await connection.exec_driver_sql(statement)

    async def types(self, schema: str, oids: Iterable[int]) -> dict[int, PgType]:
        """Return the types, asking the server only about those that tenants made."""
        known = (await self.catalog()).types
        unknown = [oid for oid in oids if oid not in known]
        if not unknown:
            return known
        async with self._transaction() as connection:
            return known | await catalog.types(connection, schema, unknown)

    async def fence(self, run: str, attempt: int) -> None:
        """See `tenant_effects.fence`."""
        await self.catalog()
        async with self._transaction() as connection:
            await tenant_effects.fence(connection, run, attempt)

    async def settle_unit(self, unit: str) -> bool:
        """See `tenant_effects.settle_unit`."""
        await self.catalog()
        async with self._transaction() as connection:
            return await tenant_effects.settle_unit(connection, unit)

    async def purge_effects(self, seconds: float) -> int:
        """See `tenant_effects.purge`."""
        await self.catalog()
        async with self._transaction() as connection:
            return await tenant_effects.purge(connection, seconds)

    async def erase(self, schema: str) -> None:
        """See `tenant_erasure`."""
        async with self._transaction() as connection:
            await tenant_erasure.lock_out(connection, self.roles, schema)
        async with self._transaction() as connection:
            await tenant_erasure.erase(connection, self.roles, schema)
        self._made.discard(schema)

    async def left(self, schema: str) -> dict[str, int]:
        """See `tenant_erasure.left`."""
        async with self._transaction() as connection:
            return await tenant_erasure.left(connection, self.roles, schema)

    async def describe(self, schema: str, wanted: Wanted) -> tuple[list[dict[str, Any]], bool]:
        async with self._transaction() as connection:
            return await catalog.describe(connection, schema, wanted)

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[AsyncConnection]:
        try:
            async with asyncio.timeout(SECONDS), self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, *DISCONNECTED) as error:
            logger.exception("the data database fails its owner")
            state = getattr(getattr(error, "orig", None), "sqlstate", None)
            if state == INSUFFICIENT_PRIVILEGE:
                raise Unavailable(
                    "the role in ISTHMUS_DATA_URL must own its database and may create roles "
                    "(CREATEROLE); the server's log says what it was refused"
                ) from error
            raise Unavailable("the data database does not answer; try again") from error
