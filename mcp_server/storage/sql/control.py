"""The control database: its engine, and its migrations under an advisory lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # pyright: ignore[reportMissingTypeStubs]  its sources are the only word on types
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mcp_server.errors import ConfigurationError

MIGRATIONS = Path(__file__).parents[2] / "migrations"
# "isthmus" in ASCII: the key of the advisory lock under which one process migrates.
MIGRATION_LOCK = 0x69737468_6D7573
POOL_SIZE = 10
SESSION = {
    "application_name": "isthmus",
    # Who waits for a row must see what the other one made of it, whatever the server's default is.
    "default_transaction_isolation": "read committed",
    # A process that is stopped inside a transaction would keep its row locks and hold back every
    # reader of the journal.
    "idle_in_transaction_session_timeout": "10s",
}


# How a database that is away shows itself: connecting fails with the driver's or the system's own
# errors, a query on a lost connection with SQLAlchemy's.
DISCONNECTED = (
    OperationalError,
    InterfaceError,
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


@asynccontextmanager
async def open_control(url: str, *, pool_size: int = POOL_SIZE) -> AsyncGenerator[AsyncEngine]:
    """Yield the migrated control database.

    Raises:
        ConfigurationError: the database cannot be reached or migrated.
    """
    async with open_pool(url, pool_size=pool_size, overflow=pool_size) as engine:
        try:
            await migrate(engine)
        except (DBAPIError, *DISCONNECTED, ValueError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise ConfigurationError(
                f"ISTHMUS_DATABASE_URL: the control database does not answer ({reason})"
            ) from error
        yield engine


@asynccontextmanager
async def open_pool(url: str, *, pool_size: int, overflow: int) -> AsyncGenerator[AsyncEngine]:
    """Yield connections to a migrated control database that wait behind nobody else's work."""
    # SQLAlchemy does not know libpq's parameters, such as sslmode: the driver reads the URL.
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: _connect(url),
        pool_size=pool_size,
        max_overflow=overflow,
        pool_pre_ping=False,
        pool_use_lifo=True,
        hide_parameters=True,  # errors are logged, and what callers send is not
    )
    try:
        yield engine
    finally:
        await engine.dispose()


async def _connect(url: str) -> Any:
    return await asyncpg.connect(url, timeout=10, server_settings=SESSION)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


async def migrate(engine: AsyncEngine) -> bool:
    """Bring the schema to the newest revision; return whether anything had to be done.

    One process does it while others wait; a database that is current costs one query.
    """
    async with engine.connect() as connection:
        if await revision(connection) == head_revision():
            return False
    async with engine.connect() as connection:
        await connection.execute(text("select pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        try:
            await connection.run_sync(_upgrade)
            await connection.commit()
        finally:
            await connection.rollback()
            await connection.execute(
                text("select pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK}
            )
            await connection.commit()
    return True


async def revision(connection: AsyncConnection) -> str | None:
    """Return the revision of the database, None before the first migration."""
    exists = await connection.scalar(text("select to_regclass('alembic_version')::text"))
    if exists is None:
        return None
    return await connection.scalar(text("select version_num from alembic_version"))


def head_revision() -> str:
    """Return the newest revision in the package: their files are numbered."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _upgrade(connection: Connection) -> None:
    # Alembic costs a tenth of a second to import and most starts have nothing to migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def answers(engine: AsyncEngine) -> None:
    """Return when the database answers a query.

    Raises:
        OSError, DBAPIError, TimeoutError: it does not, within two seconds.
    """
    async with asyncio.timeout(2), engine.connect() as connection:
        await connection.execute(text("select 1"))
