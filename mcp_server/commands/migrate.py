"""`isthmus migrate`: bring the control database to this version's schema."""

from __future__ import annotations

from mcp_server.commands.control import control_database
from mcp_server.settings import Settings
from mcp_server.storage.sql.control import head_revision


async def migrate(settings: Settings) -> int:
    """Migrate and say what the schema is now; opening the database does it, as every start does."""
    async with control_database(settings):
        print(f"the control database is at revision {head_revision()}")
    return 0
