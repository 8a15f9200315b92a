"""Agents as they are answered."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row
from typing_extensions import TypedDict

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.timestamps import iso


class LimitsItem(TypedDict):
    turns: int
    seconds: float
    tool_calls: int
    tokens: int | None
    cost: float | None


class AgentItem(TypedDict):
    """One agent's definition; times are ISO 8601 in UTC. While it is paused, no new run begins."""

    name: str
    description: str
    instructions: str
    variables: dict[str, str | None]
    model: str
    fallbacks: list[str]
    tools: list[str]
    agents: list[str]
    stores: list[str]
    approve: list[str]
    unsure: str
    output_schema: dict[str, Any] | None
    parallel: bool
    limits: LimitsItem
    memory: str
    busy: str
    as_tool: bool
    as_prompt: bool
    metadata: dict[str, str]
    paused: bool
    version: int
    created_at: str
    updated_at: str


class AgentPage(TypedDict):
    items: list[AgentItem]


class AgentVersion(TypedDict):
    """One version of a definition: who saved it, and when."""

    version: int
    saved_at: str
    subject: str


class AgentVersions(TypedDict):
    """The newest first."""

    items: list[AgentVersion]


class AgentDeleted(TypedDict):
    deleted: bool


def read_item(row: Row[Any]) -> AgentItem:
    """Read a row that has a definition, its version and since when it rests."""
    return agent_item(row, AgentDefinition.model_validate(row.definition))


def agent_item(row: Row[Any], definition: AgentDefinition) -> AgentItem:
    """Return the item of a definition, whose version and times the row has."""
    return AgentItem(
        **definition.model_dump(mode="json"),
        paused=row.paused_at is not None,
        version=row.version,
        created_at=iso(row.created_at),
        updated_at=iso(row.updated_at),
    )
