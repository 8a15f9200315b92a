"""What a definition of an agent must be: its fields, and that what it names exists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from mcp_server.agents.definitions import DEFAULT_MODEL, AgentDefinition
from mcp_server.agents.questions import ASK_PERSON
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.llm import ModelInfo

MOST_SHOWN = 50


class Named(Protocol):
    """A tool, as far as a definition is concerned."""

    @property
    def name(self) -> str: ...


Models = Callable[[], Awaitable[Sequence[ModelInfo]]]
"""Return the models that there are."""

Tools = Callable[[Principal], Awaitable[Sequence[Named]]]
"""Return the tools that a principal may call."""


def read_definition(fields: dict[str, Any]) -> AgentDefinition:
    """Read the fields of a definition.

    Raises:
        InvalidInput: a field is unknown or does not fit, or an approval is asked for no tool of it.
    """
    try:
        definition = AgentDefinition.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where}: {first['msg']}", param=where) from error
    for tool in definition.approve:
        if tool not in definition.tools:
            shown = ", ".join(definition.tools[:MOST_SHOWN]) or "none"
            message = f"approve: {tool!r} is not among the agent's tools; it has {shown}"
            raise InvalidInput(message, param="approve")
    return definition


async def check_model(model: str, models: Models) -> None:
    """Return if there is such a model.

    Raises:
        InvalidInput: there is not; it tells those that there are.
    """
    # The default always means something, also while no upstream answers.
    if model == DEFAULT_MODEL:
        return
    known = [info.id for info in await models() if "chat" in info.capabilities]
    if model not in known:
        raise InvalidInput(_unknown("model", model, [DEFAULT_MODEL, *known]), param="model")


async def check_tools(principal: Principal, wanted: Sequence[str], tools: Tools) -> None:
    """Return if the principal may call each of these tools.

    Raises:
        InvalidInput: not so; it tells those that it may call.
    """
    known = {ASK_PERSON, *(tool.name for tool in await tools(principal))} if wanted else set[str]()
    for tool in wanted:
        if tool not in known:
            raise InvalidInput(_unknown("tools", tool, sorted(known)), param="tools")


def _unknown(param: str, value: str, known: Sequence[str]) -> str:
    shown = ", ".join(known[:MOST_SHOWN]) or "none"
    more = f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else ""
    return f"{param}: {value!r} does not exist; there are {shown}{more}"
