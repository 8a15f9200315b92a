"""Agents as tools and prompts of their own, to the callers of their tenant that may run or read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp_types import GetPromptResult, Prompt, PromptArgument, PromptMessage, TextContent
from mcp_types import Tool as WireTool

from mcp_server.agents.variables import (
    fill,
    required_variables,
    variable_schemas,
    variable_values,
)
from mcp_server.errors import InvalidInput
from mcp_server.function_names import agent_face
from mcp_server.plugins import Call
from mcp_server.policy import Verb
from mcp_server.prompts import refuse_unknown
from mcp_server.services.agent_items import AgentItem
from mcp_server.tool import DeclaredTool, Result

AGENT_RUN = "agent_run"


@dataclass(frozen=True, slots=True)
class AgentTool:
    """An agent as a tool: a call of it is one of `agent_run`, `run`, whose result it has."""

    agent: AgentItem
    run: DeclaredTool

    @property
    def name(self) -> str:
        return agent_face(self.agent["name"])

    @property
    def description(self) -> str:
        return self.agent["description"] or f"Run the agent {self.agent['name']}."

    @property
    def verb(self) -> Verb:
        return self.run.verb

    @property
    def egress(self) -> bool:
        return self.run.egress

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the JSON schema of its arguments: the input, the variables, and the conversation if it has some."""
        variables = self.agent["variables"]
        properties = {name: self.run.parameters["properties"][name] for name in self._own()}
        return {
            "type": "object",
            "properties": properties | variable_schemas(variables),
            "required": ["input", *required_variables(variables)],
            "additionalProperties": False,
        }

    def wire(self) -> WireTool:
        """Return it as the protocol lists it."""
        return WireTool(
            name=self.name,
            description=self.description,
            input_schema=self.parameters,
            output_schema=self.run.output_schema,
            annotations=self.run.annotations,
        )

    async def execute(self, arguments: dict[str, Any], call: Call) -> Result:
        """Run the agent.

        Raises:
            InvalidInput: an argument is unknown, missing or of the wrong type. And what `agent_run` raises.
        """
        return await self.run.execute(self._run_arguments(arguments), call)

    def _own(self) -> tuple[str, ...]:
        """Return the arguments that are those of `agent_run`."""
        remembers = self.agent["memory"] == "conversation"
        return ("input", "conversation") if remembers else ("input",)

    def _run_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        schema = self.parameters
        for name in arguments:
            if name not in schema["properties"]:
                known = ", ".join(schema["properties"])
                raise InvalidInput(
                    f"{name}: {self.name} has no such argument; it takes {known}", param=name
                )
        for name in schema["required"]:
            if name not in arguments:
                raise InvalidInput(f"{name}: this argument is required", param=name)
        variables = {name: arguments[name] for name in self.agent["variables"] if name in arguments}
        for name, value in variables.items():
            if not isinstance(value, str):
                raise InvalidInput(f"{name}: give a text", param=name)
        given = {name: arguments[name] for name in self._own() if name in arguments}
        return {"agent": self.agent["name"], "variables": variables, **given}


def prompt_of(agent: AgentItem) -> Prompt:
    """Return an agent's prompt as the protocol lists it."""
    required = required_variables(agent["variables"])
    variables = [
        PromptArgument(name=name, description=_about(text), required=name in required)
        for name, text in agent["variables"].items()
    ]
    said = PromptArgument(name="input", description="what to say after them", required=False)
    return Prompt(
        name=agent_face(agent["name"]),
        description=agent["description"] or f"The instructions of the agent {agent['name']}.",
        arguments=[*variables, said],
    )


def render_prompt(agent: AgentItem, arguments: Mapping[str, str]) -> GetPromptResult:
    """Return an agent's instructions with the variables in their places, and the input if one is given.

    Raises:
        InvalidInput: an argument is unknown or too long, or a variable that must be given is missing.
    """
    prompt = prompt_of(agent)
    refuse_unknown(prompt, arguments)
    for name in required_variables(agent["variables"]):
        if name not in arguments:
            raise InvalidInput(f"{name}: this argument is required", param=name)
    given = {name: text for name, text in arguments.items() if name in agent["variables"]}
    filled = fill(agent["instructions"], variable_values(agent["variables"], given))
    texts = [filled, *([arguments["input"]] if "input" in arguments else [])]
    return GetPromptResult(
        description=prompt.description,
        messages=[
            PromptMessage(role="user", content=TextContent(type="text", text=text))
            for text in texts
        ],
    )


def _about(text: str | None) -> str:
    return "" if text is None else f"{text[:200]} if left out"
