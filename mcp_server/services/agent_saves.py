"""Saving definitions of agents: one, or several of which all or none take effect."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import and_, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import TypedDict

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.agents.final import CostOf
from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, InvalidInput, LimitExceeded
from mcp_server.function_names import agent_face
from mcp_server.operation import Operation, Operations
from mcp_server.services.agent_bounds import check_made
from mcp_server.services.agent_checks import (
    Models,
    Named,
    Taken,
    Tools,
    check_faces,
    check_outside,
    check_prices,
    read_definition,
)
from mcp_server.services.agent_items import AgentItem, agent_item
from mcp_server.services.agent_references import check_agents, check_stores, hold_references
from mcp_server.services.agent_rows import agent_uri, lists_changed
from mcp_server.storage.sql.agent_tables import agents
from mcp_server.storage.sql.schema import encode_json

MOST_AGENTS = 1000
# Of one agent; the oldest give way.
MOST_VERSIONS = 100

_UPSERT = text(
    """
    insert into agents (tenant, name, definition, version, as_tool, as_prompt)
    values (:tenant, :name, :definition, next_version(:tenant), :as_tool, :as_prompt)
    on conflict (tenant, name) do update set definition = excluded.definition,
        version = next_version(excluded.tenant), as_tool = excluded.as_tool,
        as_prompt = excluded.as_prompt, updated_at = now()
    returning name, version, paused_at, created_at, updated_at
    """
)
_KEEP = text(
    """
    insert into agent_versions (tenant, name, version, definition, subject)
    values (:tenant, :name, :version, :definition, :subject)
    """
)
_FORGET = text(
    """
    delete from agent_versions where tenant = :tenant and name = :name and version < (
        select version from agent_versions where tenant = :tenant and name = :name
        order by version desc offset :most - 1 limit 1)
    """
)


class AppliedAgent(TypedDict):
    """What became of one definition; what a dry run did not save has no version."""

    name: str
    outcome: Literal["created", "changed", "unchanged"]
    version: int | None


@dataclass(frozen=True, slots=True)
class _Shown:
    """A tool that there will be."""

    name: str


class AgentSaves:
    """Each save is one operation `write` on `agent://NAME`."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        *,
        models: Models,
        tools: Tools,
        taken: Taken | None = None,
        cost_of: CostOf | None = None,
    ) -> None:
        self._operation = operation
        self._control = control
        self._models = models
        self._tools = tools
        self._taken = taken or Taken()
        self._cost_of = cost_of

    async def save(
        self, principal: Principal, name: str, idempotency_key: str | None = None, **fields: Any
    ) -> AgentItem:
        """Write one definition, whole, and return it with its new version.

        `fields` are those of `AgentDefinition`. Runs that have begun keep the version they began with.

        Raises:
            InvalidInput: a field is unknown or does not fit, or names a model, tool, store or agent that
                is not there; the agent would run itself; or it cannot be shown as it says.
            LimitExceeded: the tenant has too many agents.
        """
        uri = agent_uri(name)
        definition = self._read({"name": name, **fields})
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
                before = await self._before(tx, principal, name)
                return await op.remember(tx, await self._write(tx, op, definition, before))

    async def apply(
        self,
        principal: Principal,
        definitions: Mapping[str, Mapping[str, Any]],
        *,
        dry_run: bool = False,
    ) -> list[AppliedAgent]:
        """Save all of some definitions, or none if one does not fit; unchanged ones stay as they are.

        Each has its fields with `name`, and for its key the place where it was found, which errors tell.
        They may name each other. A dry run decides and checks the same, and changes nothing.

        Raises:
            InvalidInput: two have one name; and what `save` raises.
        """
        wanted = self._read_all(definitions)
        shown = [_Shown(agent_face(each.name)) for each in wanted.values() if each.as_tool]

        async def tools(caller: Principal) -> list[Named]:
            return [*await self._tools(caller), *shown]

        async with AsyncExitStack() as opened:
            operations: dict[str, Operation] = {}
            for place, each in wanted.items():
                with _told_at(place):
                    opening = self._operation(principal, "write", agent_uri(each.name))
                    operations[place] = await opened.enter_async_context(opening)
                    await check_outside(principal, each, self._models, tools)
            async with self._control.connect() as tx, tx.begin() as transaction:
                applied = await self._apply(tx, wanted, operations)
                if dry_run:
                    await transaction.rollback()
                    for each in applied:
                        each["version"] = (
                            each["version"] if each["outcome"] == "unchanged" else None
                        )
        return applied

    async def _apply(
        self,
        tx: AsyncConnection,
        wanted: Mapping[str, AgentDefinition],
        operations: Mapping[str, Operation],
    ) -> list[AppliedAgent]:
        applied: list[AppliedAgent] = []
        for place, definition in wanted.items():
            await hold_references(tx, operations[place].principal.tenant, definition)
        for place, definition in wanted.items():
            with _told_at(place):
                applied.append(await self._write_changed(tx, operations[place], definition))
        # When all are there: they may name each other, but not in a circle.
        for place, definition in wanted.items():
            with _told_at(place):
                await check_stores(tx, operations[place].principal, definition)
                await check_agents(tx, operations[place].principal, definition)
        return applied

    async def _write_changed(
        self, tx: AsyncConnection, op: Operation, definition: AgentDefinition
    ) -> AppliedAgent:
        name = definition.name
        before = await self._before(tx, op.principal, name)
        if before is not None and AgentDefinition.model_validate(before.definition) == definition:
            return AppliedAgent(name=name, outcome="unchanged", version=before.version)
        item = await self._write(tx, op, definition, before)
        outcome = "created" if before is None else "changed"
        return AppliedAgent(name=name, outcome=outcome, version=item["version"])

    async def _write(
        self, tx: AsyncConnection, op: Operation, definition: AgentDefinition, before: Any | None
    ) -> AgentItem:
        stored = definition.model_dump(mode="json")
        await check_made(tx, op, stored)
        values = {
            "tenant": op.principal.tenant,
            "name": definition.name,
            "definition": encode_json(stored),
        }
        shown = {"as_tool": definition.as_tool, "as_prompt": definition.as_prompt}
        row = (await tx.execute(_UPSERT, values | shown)).one()
        kept = {"version": row.version, "subject": op.principal.subject}
        await tx.execute(_KEEP, values | kept)
        await tx.execute(_FORGET, values | {"most": MOST_VERSIONS})
        await op.journal(
            tx,
            version=row.version,
            prev_version=None if before is None else before.version,
            labels=lists_changed(
                tools=definition.as_tool or (before is not None and before.as_tool),
                prompts=definition.as_prompt or (before is not None and before.as_prompt),
            ),
        )
        return agent_item(row, definition)

    def _read(self, fields: dict[str, Any]) -> AgentDefinition:
        definition = read_definition(fields)
        check_faces(definition, self._taken)
        if self._cost_of is not None:
            check_prices(definition, self._cost_of)
        return definition

    def _read_all(self, definitions: Mapping[str, Mapping[str, Any]]) -> dict[str, AgentDefinition]:
        """Return the definitions in the order of their names, in which rows are locked.

        Raises:
            InvalidInput: one does not fit, or two have one name.
        """
        found: dict[str, AgentDefinition] = {}
        places: dict[str, str] = {}
        for place, fields in definitions.items():
            with _told_at(place):
                definition = found[place] = self._read(dict(fields))
                other = places.setdefault(definition.name, place)
                if other != place:
                    raise InvalidInput(f"name: {definition.name!r} is defined at {other} already")
        return {places[name]: found[places[name]] for name in sorted(places)}

    async def _before(self, tx: AsyncConnection, principal: Principal, name: str) -> Any | None:
        """Lock the agent and return its row; refuse one agent too many."""
        own = agents.c.tenant == principal.tenant
        at = select(agents).where(and_(own, agents.c.name == name)).with_for_update()
        row = (await tx.execute(at)).first()
        if row is None:
            count = await tx.scalar(select(func.count()).select_from(agents).where(own)) or 0
            if count >= MOST_AGENTS:
                raise LimitExceeded(f"name: there are {count} agents already, the most allowed")
        return row


@contextmanager
def _told_at(place: str) -> Generator[None]:
    """Let an error tell where the definition stands."""
    try:
        yield
    except AppError as error:
        raise type(error)(f"{place}: {error.message}", param=error.param) from error
