"""The two login roles and the schema of a tenant: their names, passwords and privileges."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.storage.sql import tenant_effects
from mcp_server.storage.sql.connections import Role
from mcp_server.storage.sql.fence import LOCK

_ITERATIONS = (
    4096  # PostgreSQL's default for SCRAM; the passwords are 256 random-looking bits anyway
)

# A tenant may fill this much of the disk with one statement's sorts and hashes.
_TEMPORARY_FILES = "1GB"

_ROLES = text("select rolname::text from pg_roles where rolname = any(:names)")
_SCHEMA_EXISTS = text("select exists (select from pg_namespace where nspname = :schema)")

# The server owns the schema, so the tenant cannot drop it or give it away. What the tenant's writing role
# makes is its own, and its reading role may read it.
_SCHEMA = """
create schema if not exists {schema};
revoke all on schema {schema} from public;
grant usage, create on schema {schema} to {writer};
grant usage on schema {schema} to {reader};
alter default privileges for role {writer} in schema {schema} grant select on tables to {reader};
alter default privileges for role {writer} in schema {schema} grant select on sequences to {reader};
alter default privileges for role {writer} revoke execute on functions from public;
alter role {writer} in database "{database}" set search_path = {schema};
alter role {reader} in database "{database}" set search_path = {schema};
alter role {reader} in database "{database}" set default_transaction_read_only = on
"""


@dataclass(frozen=True, slots=True)
class TenantRoles:
    """Derives names and passwords, and makes the roles.

    Role names hold a hash of database and schema, since roles are the cluster's and two installations
    may share one; the names do not depend on the secret, so that a new secret only means new passwords.
    """

    secret: bytes
    database: str

    @property
    def group(self) -> str:
        """The role whose members may connect: one privilege on the database, however many tenants."""
        return f"isth_{_hash(self.database)}_tenants"

    def name(self, role: Role) -> str:
        return f"isth_{_hash(self.database, role.schema)}_{'rw' if role.writable else 'ro'}"

    def password(self, role: Role) -> str:
        return self._derived("write" if role.writable else "read", role.schema)

    def proof(self, schema: str) -> str:
        """What the server shows, and no statement of a tenant can, when it marks an effect."""
        return self._derived("effects", schema)

    def _derived(self, kind: str, schema: str) -> str:
        message = b"\0".join((b"tenant-sql", kind.encode(), schema.encode()))
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()

    async def ensure(
        self, connection: AsyncConnection, schema: str, *, superuser: bool, renew: bool = False
    ) -> None:
        """Make what is missing of a tenant, in a transaction of the owner. `renew` sets the passwords.

        Raises:
            sqlalchemy.exc.DBAPIError: the owner may not create roles or schemas.
        """
        roles = {self.name(role): role for role in (Role(schema, True), Role(schema, False))}
        if not renew and await self._complete(connection, schema, [*roles]):
            return
        await connection.execute(LOCK)
        existing = await _existing(connection, [self.group, *roles])
        database = self.database.replace('"', '""')
        if self.group not in existing:
            await connection.exec_driver_sql(f"create role {self.group} nologin")
        await connection.exec_driver_sql(f'grant connect on database "{database}" to {self.group}')
        for name, role in roles.items():
            verb = "alter" if name in existing else "create"
            verifier = _verifier(self.password(role))
            await connection.exec_driver_sql(f"{verb} role {name} login password '{verifier}'")
            await connection.exec_driver_sql(f"grant {self.group} to {name}")
            if superuser:
                limit = f"set temp_file_limit = '{_TEMPORARY_FILES}'"
                await connection.exec_driver_sql(f"alter role {name} {limit}")
        writer, reader = roles
        if not superuser:
            # Default privileges are set by a member of the role.
            await connection.exec_driver_sql(f"grant {writer} to current_user")
        script = _SCHEMA.format(schema=schema, writer=writer, reader=reader, database=database)
        for statement in script.split(";"):
            await connection.exec_driver_sql(statement)
        await tenant_effects.admit(connection, writer, self.proof(schema))

    async def _complete(self, connection: AsyncConnection, schema: str, roles: list[str]) -> bool:
        # Roles are the cluster's, schemas the database's: one can be there without the other. A
        # tenant of an earlier version has both, and marks no effects yet.
        return (
            await connection.scalar(_SCHEMA_EXISTS, {"schema": schema}) is True
            and len(await _existing(connection, roles)) == len(roles)
            and await tenant_effects.is_admitted(connection, roles[0], self.proof(schema))
        )


async def _existing(connection: AsyncConnection, names: list[str]) -> set[str]:
    return set((await connection.execute(_ROLES, {"names": names})).scalars())


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _verifier(password: str) -> str:
    """Return the SCRAM-SHA-256 verifier (RFC 5803), so that no log of the server sees the password."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    client = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    stored = hashlib.sha256(client).digest()
    server = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    salt64, stored64, server64 = (
        base64.b64encode(part).decode() for part in (salt, stored, server)
    )
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt64}${stored64}:{server64}"
