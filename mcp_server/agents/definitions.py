"""What an agent is: its instructions, its model, what it may use, and its limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from mcp_server.agents.events import LoopLimits
from mcp_server.agents.steps import UnsurePolicy

DEFAULT_MODEL = "default"
MOST_INSTRUCTIONS = 100_000
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=128)]
ModelId: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
VariableName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
VariableText: TypeAlias = Annotated[str, Field(max_length=MOST_INSTRUCTIONS)]
Memory: TypeAlias = Literal["none", "conversation"]
Busy: TypeAlias = Literal["reject", "enqueue"]
_STRICT = ConfigDict(extra="forbid", frozen=True)


class AgentLimits(BaseModel):
    """Where a run of the agent ends at the latest; `seconds` count anew for each attempt at it.

    `tokens` are those of all its answers with what the model read for them, `cost` is in US dollars by
    the prices of the model; None is no limit. A run does not end at `context_tokens`: after a turn that
    read and wrote so many, the older part of its conversation is summed up.
    """

    model_config = _STRICT

    turns: int = Field(default=16, ge=1, le=100)
    seconds: float = Field(default=600.0, gt=0, le=3600)
    tool_calls: int = Field(default=64, ge=0, le=1000)
    tokens: int | None = Field(default=None, ge=1, le=1_000_000_000)
    cost: float | None = Field(default=None, gt=0, le=1_000_000)
    context_tokens: int | None = Field(default=None, ge=1, le=1_000_000_000)

    def of_loop(self) -> LoopLimits:
        return LoopLimits(**self.model_dump())


class AgentDefinition(BaseModel):
    """One agent; without `tools` it has none: a new agent holds no right that nobody gave it.

    `{{name}}` in the instructions stands for a variable; `variables` holds the text that each has if a
    run gives none, None for one that every run must give. `fallbacks` are asked in their order when
    `model` does not answer. `agents` and `stores` become functions of the model: one for each agent,
    and one that searches these stores only. The final answer fits `output_schema`. `parallel` lets the
    calls of one turn run at once. With `memory` of `conversation`, runs with one key go on where the
    one before ended, and `busy` says what becomes of a run whose conversation another one is in.
    `as_tool` shows the agent as a tool `agent_NAME`, `as_prompt` its instructions as a prompt of that name.

    Each call to a tool of `approve` waits for a person's approval. `unsure` says what becomes of a
    run that was interrupted in the middle of a call that its tool cannot promise to do only once,
    such as one to an upstream server: it fails with code `unsure`, or the call is made again.
    """

    model_config = _STRICT

    name: str
    instructions: str = Field(max_length=MOST_INSTRUCTIONS)
    description: str = Field(default="", max_length=2_000)
    variables: dict[VariableName, VariableText | None] = Field(default={}, max_length=64)
    model: ModelId = DEFAULT_MODEL
    fallbacks: tuple[ModelId, ...] = Field(default=(), max_length=8)
    tools: tuple[Name, ...] = Field(default=(), max_length=128)
    agents: tuple[Name, ...] = Field(default=(), max_length=16)
    stores: tuple[Name, ...] = Field(default=(), max_length=16)
    approve: tuple[Name, ...] = Field(default=(), max_length=128)
    unsure: UnsurePolicy = "fail"
    output_schema: dict[str, Any] | None = None
    parallel: bool = True
    limits: AgentLimits = AgentLimits()
    memory: Memory = "none"
    busy: Busy = "reject"
    as_tool: bool = False
    as_prompt: bool = False
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = (
        Field(default={}, max_length=16)
    )
