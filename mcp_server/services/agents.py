"""Agents: versioned definitions that anyone in the tenant with the right may run."""

from __future__ import annotations

import builtins
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import and_, delete, false, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound, Unavailable
from mcp_server.function_names import agent_face, agent_of_face
from mcp_server.operation import DISCONNECTED
from mcp_server.policy import Verb
from mcp_server.services.agent_items import (
    AgentDeleted,
    AgentItem,
    AgentPage,
    AgentVersion,
    AgentVersions,
    read_item,
)
from mcp_server.services.agent_rows import (
    Face,
    agent_uri,
    find_agent,
    lists_changed,
    load_agent,
    load_shown,
    missing_agent,
)
from mcp_server.services.agent_saves import AgentSaves
from mcp_server.storage.sql.agent_tables import agent_versions, agents
from mcp_server.timestamps import iso

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


class AgentService(AgentSaves):
    """Every method but the two that tell what is shown is one operation on `agent://NAME`."""

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
                gone = (await tx.execute(delete(agents).where(at).returning(agents))).first()
                if gone is not None:
                    changed = lists_changed(tools=gone.as_tool, prompts=gone.as_prompt)
                    await op.journal(tx, verb="delete", prev_version=gone.version, labels=changed)
                return await op.remember(tx, AgentDeleted(deleted=gone is not None))

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

    async def shown(self, principal: Principal, face: Face) -> builtins.list[AgentItem]:
        """Return the agents that are shown to the caller as tools, which it may run, or prompts, which it may read.

        Raises:
            Unavailable: that cannot be known now.
        """
        verb: Verb = "run" if face == "tool" else "read"
        with _told_unavailable():
            found = await load_shown(self._control, principal.tenant, face)
        return [
            agent
            for agent in found
            if policy.allows(principal, verb, f"agent://{agent['name']}")
            and policy.allows(principal, verb, f"{face}://{agent_face(agent['name'])}")
        ]

    async def behind(self, principal: Principal, name: str, face: Face) -> AgentItem | None:
        """Return the agent that a tool or a prompt of the caller's tenant shows, also while it is paused.

        Whether the caller may run or read it is decided by who does so.

        Raises:
            Unavailable: that cannot be known now.
        """
        agent = agent_of_face(name)
        if agent is None:
            return None
        with _told_unavailable():
            async with self._control.connect() as tx:
                found = await find_agent(tx, principal.tenant, agent)
        shown = found is not None and found["as_tool" if face == "tool" else "as_prompt"]
        return found if shown else None

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
                changing = changes.values(paused_at=rests).returning(
                    agents.c.version, agents.c.as_tool
                )
                row = (await tx.execute(changing)).first()
                if row is not None:  # what it does is as before: only that it may, changes
                    await op.journal(
                        tx,
                        version=row.version,
                        prev_version=row.version,
                        labels=lists_changed(tools=row.as_tool, prompts=False),
                    )
                found = await find_agent(tx, principal.tenant, name)
                if found is None:
                    raise missing_agent(name)
                return await op.remember(tx, found)


@contextmanager
def _told_unavailable() -> Generator[None]:
    try:
        yield
    except (SQLAlchemyError, *DISCONNECTED) as error:
        raise Unavailable("the agents cannot be looked up now; try again") from error
