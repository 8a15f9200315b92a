"""What a definition of an agent must be: its fields fit together, and the models and tools that it names exist."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from mcp_server.agents.definitions import DEFAULT_MODEL, AgentDefinition
from mcp_server.agents.final import CostOf
from mcp_server.agents.questions import ASK_PERSON
from mcp_server.agents.variables import used_variables
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.function_names import SEARCH_FUNCTION, agent_face, agent_function, function_name
from mcp_server.llm import ModelInfo
from mcp_server.services.schema_process import schema_fault
from mcp_server.storage.sql.schema import encode_json

MOST_SHOWN = 50
MOST_SCHEMA_BYTES = 65_536
# Of tools and prompts, as the protocol has them.
MOST_FACE = 128
# What the functions and tools that run it, and its prompt, take beside its variables.
_TAKEN = ("input", "conversation")


class Named(Protocol):
    """A tool, as far as a definition is concerned."""

    @property
    def name(self) -> str: ...


Models = Callable[[], Awaitable[Sequence[ModelInfo]]]
"""Return the models that there are."""

Tools = Callable[[Principal], Awaitable[Sequence[Named]]]
"""Return the tools that a principal may call."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The names of tools and prompts that an agent cannot have: they are declared."""

    tools: frozenset[str] = frozenset()
    prompts: frozenset[str] = frozenset()


def read_definition(fields: dict[str, Any]) -> AgentDefinition:
    """Read the fields of a definition.

    Raises:
        InvalidInput: a field is unknown or does not fit, or two of them do not fit together.
    """
    try:
        definition = AgentDefinition.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where}: {first['msg']}", param=where) from error
    _check_functions(definition)
    _check_variables(definition)
    _check_schema(definition.output_schema)
    return definition


async def check_outside(
    principal: Principal, definition: AgentDefinition, models: Models, tools: Tools
) -> None:
    """Return if the definition's models exist, and the principal may call each of its tools.

    Raises:
        InvalidInput: not so; it tells those that there are.
    """
    for param, wanted in (("model", (definition.model,)), ("fallbacks", definition.fallbacks)):
        await _check_models(param, wanted, models)
    listed = await tools(principal) if definition.tools else ()
    known = {ASK_PERSON, *(tool.name for tool in listed)}
    for tool in definition.tools:
        if tool not in known:
            raise InvalidInput(unknown("tools", tool, sorted(known)), param="tools")


def check_faces(definition: AgentDefinition, taken: Taken) -> None:
    """Return if the agent can be shown as its definition says.

    Raises:
        InvalidInput: the name is another tool's or prompt's, or too long; or the agent would be a tool of its own.
    """
    face = agent_face(definition.name)
    for field, shown, others in (
        ("as_tool", definition.as_tool, taken.tools),
        ("as_prompt", definition.as_prompt, taken.prompts),
    ):
        if not shown:
            continue
        if face in others:
            raise InvalidInput(
                f"{field}: there is another {field[3:]} {face!r}; save the agent under another name, "
                f"or with {field} false",
                param=field,
            )
        if len(face) > MOST_FACE:
            raise InvalidInput(
                f"{field}: {face[:80]!r}... has {len(face)} characters, more than the {MOST_FACE} that "
                f"the name of a {field[3:]} may have; choose a shorter name",
                param=field,
            )
    if definition.as_tool and face in definition.tools:
        raise InvalidInput(
            f"tools: by {face!r} the agent would run itself; leave it out", param="tools"
        )


def check_prices(definition: AgentDefinition, cost_of: CostOf) -> None:
    """Refuse a limit of the cost that would never hold.

    Raises:
        InvalidInput: one of the definition's models has no price.
    """
    if definition.limits.cost is None:
        return
    for model in (definition.model, *definition.fallbacks):
        if cost_of(model, {}) is None:
            raise InvalidInput(
                f"limits.cost: the model {model!r} has no price, so nothing would be counted; give "
                "its input_price and output_price in [models.NAME] of the settings, or leave it out",
                param="limits.cost",
            )


def unknown(param: str, value: str, known: Sequence[str]) -> str:
    """Say that a value names nothing, and what there is."""
    shown = ", ".join(known[:MOST_SHOWN]) or "none"
    more = f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else ""
    return f"{param}: {value!r} does not exist; there are {shown}{more}"


async def _check_models(param: str, wanted: Sequence[str], models: Models) -> None:
    # The default always means something, also while no upstream answers.
    named = [model for model in wanted if model != DEFAULT_MODEL]
    if not named:
        return
    known = [info.id for info in await models() if "chat" in info.capabilities]
    for model in named:
        if model not in known:
            raise InvalidInput(unknown(param, model, [DEFAULT_MODEL, *known]), param=param)


def _check_functions(definition: AgentDefinition) -> None:
    """Refuse two functions of one name, and an approval that is asked for none of them."""
    functions = {function_name(tool): f"tools: {tool!r}" for tool in definition.tools}
    further = {agent_function(name): f"agents: {name!r}" for name in definition.agents}
    if definition.stores:
        further[SEARCH_FUNCTION] = "stores: the search"
    for function, owner in further.items():
        if function in functions:
            raise InvalidInput(
                f"{owner} would be the function {function!r}, which is one of the agent's tools; "
                "leave one of them out",
                param=owner.partition(":")[0],
            )
    functions |= further
    for tool in definition.approve:
        if function_name(tool) not in functions:
            shown = ", ".join([*definition.tools, *further][:MOST_SHOWN]) or "none"
            raise InvalidInput(
                f"approve: {tool!r} is not among the agent's tools; it has {shown}", param="approve"
            )


def _check_variables(definition: AgentDefinition) -> None:
    used = used_variables(definition.instructions)
    for name in used:
        if name not in definition.variables:
            raise InvalidInput(
                f"variables: the instructions use {{{{{name}}}}}, which is not declared; add "
                f"{name!r} with its default text, or null if each run must give it",
                param="variables",
            )
    for name in definition.variables:
        if name in _TAKEN:
            raise InvalidInput(
                f"variables: {name!r} is an argument of every run; choose another name",
                param="variables",
            )
        if name not in used:
            raise InvalidInput(
                f"variables: the instructions do not use {name!r}; write {{{{{name}}}}} where its "
                "text belongs, or leave it out",
                param="variables",
            )


def _check_schema(schema: dict[str, Any] | None) -> None:
    if schema is None:
        return
    try:
        size = len(encode_json(schema))
    except RecursionError as error:
        raise InvalidInput("output_schema: it is nested too deep", param="output_schema") from error
    if size > MOST_SCHEMA_BYTES:
        raise InvalidInput(
            f"output_schema: it has {size} bytes of JSON; the most allowed are {MOST_SCHEMA_BYTES}",
            param="output_schema",
        )
    fault = schema_fault(schema)
    if fault is not None:
        raise InvalidInput(f"output_schema{fault}", param="output_schema")
