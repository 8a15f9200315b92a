"""Agents: versioned definitions that anyone in the tenant with the right may run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, delete, false, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import LimitExceeded, NotFound
from mcp_server.operation import Operations
from mcp_server.services.agent_bounds import check_made
from mcp_server.services.agent_checks import Models, Tools, check_outside, read_definition
from mcp_server.services.agent_items import (
    AgentDeleted,
    AgentItem,
    AgentPage,
    AgentVersion,
    AgentVersions,
    agent_item,
    read_item,
)
from mcp_server.services.agent_references import check_agents, check_stores, hold_references
from mcp_server.services.agent_rows import agent_uri, find_agent, load_agent, missing_agent
from mcp_server.storage.sql.agent_tables import agent_versions, agents
from mcp_server.storage.sql.schema import encode_json
from mcp_server.timestamps import iso

MOST_AGENTS = 1000
# Of one agent; the oldest give way.
MOST_VERSIONS = 100


_UPSERT = text(
    """
    insert into agents (tenant, name, definition, version)
    values (:tenant, :name, :definition, next_version(:tenant))
    on conflict (tenant, name) do update set definition = excluded.definition,
        version = next_version(excluded.tenant), updated_at = now()
    returning name, version, paused_at, created_at, updated_at
    """
)
_KEEP = text(
    """
    insert into agent_versions (tenant, name, version, definition, subject)
    values (:tenant, :name, :version, :definition, :subject)
    """
)
_VERSION: Any = select(
    agents.c.paused_at,
    agents.c.created_at,
    agent_versions.c.definition,
    agent_versions.c.version,
    agent_versions.c.saved_at.label("updated_at"),
).join_from(
    agents,
    agent_versions,
    and_(agents.c.tenant == agent_versions.c.tenant, agents.c.name == agent_versions.c.name),
)
_FORGET = text(
    """
    delete from agent_versions where tenant = :tenant and name = :name and version < (
        select version from agent_versions where tenant = :tenant and name = :name
        order by version desc offset :most - 1 limit 1)
    """
)


class AgentService:
    """Every method is one operation on `agent://NAME`."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        *,
        models: Models,
        tools: Tools,
    ) -> None:
        self._operation = operation
        self._control = control
        self._models = models
        self._tools = tools

    async def save(
        self, principal: Principal, name: str, idempotency_key: str | None = None, **fields: Any
    ) -> AgentItem:
        """Write one definition, whole, and return it with its new version.

        `fields` are those of `AgentDefinition`. Runs that have begun keep the version they began with.

        Raises:
            InvalidInput: a field is unknown or does not fit, or names a model, tool, store or agent that
                is not there; or the agent would run itself through its sub-agents.
            LimitExceeded: the tenant has too many agents.
        """
        uri = agent_uri(name)
        definition = read_definition({"name": name, **fields})
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            done = await op.look(self._control)
            if done is not None:
                return done
            await check_outside(principal, definition, self._models, self._tools)
            async with self._control.begin() as tx:
                done = await op.replay(tx)
                if done is not None:
                    return done
                await hold_references(tx, principal.tenant, definition)
                await check_stores(tx, principal, definition)
                await check_agents(tx, principal, definition)
                await check_made(tx, op, definition.model_dump(mode="json"))
                before = await self._version(tx, principal, name)
                values = {"tenant": principal.tenant, "name": name}
                values["definition"] = encode_json(definition.model_dump(mode="json"))
                row = (await tx.execute(_UPSERT, values)).one()
                kept = {"version": row.version, "subject": principal.subject}
                await tx.execute(_KEEP, values | kept)
                await tx.execute(_FORGET, values | {"most": MOST_VERSIONS})
                await op.journal(tx, version=row.version, prev_version=before)
                return await op.remember(tx, agent_item(row, definition))

    async def get(self, principal: Principal, name: str, version: int | None = None) -> AgentItem:
        """Return one definition, as it is now or as it was in a version.

        Raises:
            NotFound: there is no such agent, or not in this version.
        """
        async with self._operation(principal, "read", agent_uri(name)):
            if version is None:
                return await load_agent(self._control, principal.tenant, name)
            async with self._control.connect() as tx:
                at = _VERSION.where(agents.c.tenant == principal.tenant, agents.c.name == name)
                row = (await tx.execute(at.where(agent_versions.c.version == version))).first()
            if row is None:
                now = await load_agent(self._control, principal.tenant, name)
                raise NotFound(
                    f"agent {name!r} has no version {version}, it is at {now['version']}; "
                    "agent_versions shows those that are kept"
                )
            return read_item(row)

    async def versions(self, principal: Principal, name: str) -> AgentVersions:
        """Return the last hundred versions of a definition, the newest first.

        Raises:
            NotFound: there is no such agent.
        """
        kept = agent_versions.c
        query = (
            select(kept.version, kept.saved_at, kept.subject)
            .where(kept.tenant == principal.tenant, kept.name == name)
            .order_by(kept.version.desc())
        )
        async with self._operation(principal, "read", agent_uri(name)):
            await load_agent(self._control, principal.tenant, name)
            async with self._control.connect() as tx:
                rows = (await tx.execute(query)).all()
        return AgentVersions(
            items=[
                AgentVersion(version=row.version, saved_at=iso(row.saved_at), subject=row.subject)
                for row in rows
            ]
        )

    async def delete(
        self, principal: Principal, name: str, idempotency_key: str | None = None
    ) -> AgentDeleted:
        """Delete an agent with its versions, if there is one; runs that have begun go on to their end."""
        at = and_(agents.c.tenant == principal.tenant, agents.c.name == name)
        async with self._operation(principal, "write", agent_uri(name), key=idempotency_key) as op:
            async with self._control.begin() as tx:
                done = await op.replay(tx)
                if done is not None:
                    return done
                version = await tx.scalar(delete(agents).where(at).returning(agents.c.version))
                if version is not None:
                    await op.journal(tx, verb="delete", prev_version=version)
                return await op.remember(tx, AgentDeleted(deleted=version is not None))

    async def pause(
        self, principal: Principal, name: str, idempotency_key: str | None = None
    ) -> AgentItem:
        """Begin no new run of an agent, by whom or what ever; those that have begun go on.

        Raises:
            NotFound: there is no such agent.
        """
        return await self._rest(principal, name, idempotency_key, paused=True)

    async def resume(
        self, principal: Principal, name: str, idempotency_key: str | None = None
    ) -> AgentItem:
        """Let new runs of an agent begin again.

        Raises:
            NotFound: there is no such agent.
        """
        return await self._rest(principal, name, idempotency_key, paused=False)

    async def list(self, principal: Principal) -> AgentPage:
        """Return every agent that the caller may see, in the order of their names."""
        visible = policy.scope(principal, "read", "agent").within("agent://")
        query = select(agents).where(agents.c.tenant == principal.tenant).order_by(agents.c.name)
        if visible is not None:
            query = query.where(
                or_(false(), *(func.starts_with(agents.c.name, p) for p in visible))
            )
        async with self._operation(principal, "read", policy.Listing("agent://")):
            async with self._control.connect() as tx:
                rows = (await tx.execute(query)).all()
        return AgentPage(items=[read_item(row) for row in rows])

    async def _rest(
        self, principal: Principal, name: str, key: str | None, *, paused: bool
    ) -> AgentItem:
        at = and_(agents.c.tenant == principal.tenant, agents.c.name == name)
        changes = update(agents).where(at, agents.c.paused_at.is_(None) == paused)
        async with self._operation(principal, "write", agent_uri(name), key=key) as op:
            async with self._control.begin() as tx:
                done = await op.replay(tx)
                if done is not None:
                    return done
                rests = func.now() if paused else None
                version = await tx.scalar(
                    changes.values(paused_at=rests).returning(agents.c.version)
                )
                if version is not None:  # what it does is as before: only that it may, changes
                    await op.journal(tx, version=version, prev_version=version)
                found = await find_agent(tx, principal.tenant, name)
                if found is None:
                    raise missing_agent(name)
                return await op.remember(tx, found)

    async def _version(self, tx: AsyncConnection, principal: Principal, name: str) -> int | None:
        """Lock the agent and return its version; refuse one agent too many."""
        own = agents.c.tenant == principal.tenant
        at = select(agents.c.version).where(and_(own, agents.c.name == name)).with_for_update()
        version = await tx.scalar(at)
        if version is None:
            count = await tx.scalar(select(func.count()).select_from(agents).where(own)) or 0
            if count >= MOST_AGENTS:
                raise LimitExceeded(f"name: there are {count} agents already, the most allowed")
        return version
