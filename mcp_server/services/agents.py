"""Agents: versioned definitions that anyone in the tenant with the right may run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from pydantic import ValidationError
from sqlalchemy import Row, and_, false, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import TypedDict

from mcp_server import policy
from mcp_server.agents.definitions import DEFAULT_MODEL, AgentDefinition, AgentLimits
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, LimitExceeded, NotFound
from mcp_server.llm import ModelInfo
from mcp_server.operation import Operations
from mcp_server.services import names
from mcp_server.storage.sql.schema import agents, encode_json
from mcp_server.timestamps import iso

__all__ = ["AgentItem", "AgentLimits", "AgentPage", "AgentService"]

MOST_AGENTS = 1000
MOST_SHOWN = 50


class Named(Protocol):
    """A tool, as far as a definition is concerned."""

    @property
    def name(self) -> str: ...


Models = Callable[[], Awaitable[Sequence[ModelInfo]]]
"""Return the models that there are."""

Tools = Callable[[Principal], Awaitable[Sequence[Named]]]
"""Return the tools that a principal may call."""

_UPSERT = text(
    """
    insert into agents (tenant, name, definition, version)
    values (:tenant, :name, :definition, next_version(:tenant))
    on conflict (tenant, name) do update set definition = excluded.definition,
        version = next_version(excluded.tenant), updated_at = now()
    returning name, version, created_at, updated_at
    """
)


class LimitsItem(TypedDict):
    turns: int
    seconds: float
    tool_calls: int


class AgentItem(TypedDict):
    """One agent's definition; times are ISO 8601 in UTC."""

    name: str
    description: str
    instructions: str
    model: str
    tools: list[str]
    approve: list[str]
    unsure: str
    limits: LimitsItem
    metadata: dict[str, str]
    version: int
    created_at: str
    updated_at: str


class AgentPage(TypedDict):
    items: list[AgentItem]


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
            InvalidInput: a field is unknown or does not fit, or names a model or tool that is not there.
            LimitExceeded: the tenant has too many agents.
        """
        uri = agent_uri(name)
        definition = _validate({"name": name, **fields})
        _check_approve(definition)
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            done = await op.look(self._control)
            if done is not None:
                return done
            await self._check_model(definition.model)
            await self._check_tools(principal, definition.tools)
            async with self._control.begin() as tx:
                done = await op.replay(tx)
                if done is not None:
                    return done
                before = await self._version(tx, principal, name)
                values = {"tenant": principal.tenant, "name": name}
                values["definition"] = encode_json(definition.model_dump(mode="json"))
                row = (await tx.execute(_UPSERT, values)).one()
                await op.journal(tx, version=row.version, prev_version=before)
                return await op.remember(tx, _item(row, definition))

    async def get(self, principal: Principal, name: str) -> AgentItem:
        """Return one definition.

        Raises:
            NotFound: there is no such agent.
        """
        async with self._operation(principal, "read", agent_uri(name)):
            return await load_agent(self._control, principal.tenant, name)

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
        return AgentPage(items=[_read(row) for row in rows])

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

    async def _check_model(self, model: str) -> None:
        # The default always means something, also while no upstream answers.
        if model == DEFAULT_MODEL:
            return
        known = [info.id for info in await self._models() if "chat" in info.capabilities]
        if model not in known:
            raise InvalidInput(_unknown("model", model, [DEFAULT_MODEL, *known]), param="model")

    async def _check_tools(self, principal: Principal, wanted: tuple[str, ...]) -> None:
        known = {tool.name for tool in await self._tools(principal)} if wanted else set[str]()
        for tool in wanted:
            if tool not in known:
                raise InvalidInput(_unknown("tools", tool, sorted(known)), param="tools")


def _check_approve(definition: AgentDefinition) -> None:
    for tool in definition.approve:
        if tool not in definition.tools:
            shown = ", ".join(definition.tools[:MOST_SHOWN]) or "none"
            message = f"approve: {tool!r} is not among the agent's tools; it has {shown}"
            raise InvalidInput(message, param="approve")


async def load_agent(control: AsyncEngine, tenant: str, name: str) -> AgentItem:
    """Read one definition, for an operation that is already open.

    Raises:
        NotFound: there is no such agent.
    """
    async with control.connect() as tx:
        found = await find_agent(tx, tenant, name)
    if found is None:
        raise NotFound(f"agent {name!r} does not exist; agent_list shows those that do")
    return found


async def find_agent(tx: AsyncConnection, tenant: str, name: str) -> AgentItem | None:
    """Read one definition in the caller's transaction, None if there is no such agent."""
    query = select(agents).where(agents.c.tenant == tenant, agents.c.name == name)
    row = (await tx.execute(query)).first()
    return None if row is None else _read(row)


def agent_uri(name: str) -> str:
    """Return the URI of an agent; its name is a part of a path, so it holds no slash.

    Raises:
        InvalidInput: it is no name.
    """
    if "/" in names.container(name, "name"):
        raise InvalidInput(f"name: {name!r} holds a slash; use . _ or - instead", param="name")
    return f"agent://{name}"


def _unknown(param: str, value: str, known: Sequence[str]) -> str:
    shown = ", ".join(known[:MOST_SHOWN]) or "none"
    more = f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else ""
    return f"{param}: {value!r} does not exist; there are {shown}{more}"


def _validate(fields: dict[str, Any]) -> AgentDefinition:
    try:
        return AgentDefinition.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where}: {first['msg']}", param=where) from error


def _read(row: Row[Any]) -> AgentItem:
    return _item(row, AgentDefinition.model_validate(row.definition))


def _item(row: Row[Any], definition: AgentDefinition) -> AgentItem:
    return AgentItem(
        **definition.model_dump(mode="json"),
        version=row.version,
        created_at=iso(row.created_at),
        updated_at=iso(row.updated_at),
    )
