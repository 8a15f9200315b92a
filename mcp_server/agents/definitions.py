"""What an agent is: its instructions, its model, the tools it may use, and its limits."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from mcp_server.agents.events import LoopLimits
from mcp_server.agents.steps import UnsurePolicy

DEFAULT_MODEL = "default"
ToolName: TypeAlias = Annotated[str, Field(max_length=128)]
_STRICT = ConfigDict(extra="forbid", frozen=True)


class AgentLimits(BaseModel):
    """Where a run of the agent ends at the latest; `seconds` count anew for each attempt at it."""

    model_config = _STRICT

    turns: int = Field(default=16, ge=1, le=100)
    seconds: float = Field(default=600.0, gt=0, le=3600)
    tool_calls: int = Field(default=64, ge=0, le=1000)

    def of_loop(self) -> LoopLimits:
        return LoopLimits(turns=self.turns, seconds=self.seconds, tool_calls=self.tool_calls)


class AgentDefinition(BaseModel):
    """One agent; without `tools` it has none: a new agent holds no right that nobody gave it.

    Each call to a tool of `approve` waits for a person's approval. `unsure` says what becomes of a
    run that was interrupted in the middle of a call that its tool cannot promise to do only once,
    such as one to an upstream server: it fails with code `unsure`, or the call is made again.
    """

    model_config = _STRICT

    name: str
    instructions: str = Field(max_length=100_000)
    description: str = Field(default="", max_length=2_000)
    model: str = Field(default=DEFAULT_MODEL, min_length=1, max_length=256)
    tools: tuple[ToolName, ...] = Field(default=(), max_length=128)
    approve: tuple[ToolName, ...] = Field(default=(), max_length=128)
    unsure: UnsurePolicy = "fail"
    limits: AgentLimits = AgentLimits()
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = (
        Field(default={}, max_length=16)
    )
