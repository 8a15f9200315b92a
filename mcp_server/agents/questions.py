"""Questions of an agent to a person: a call that the run itself answers, for it waits without a worker meanwhile."""

from __future__ import annotations

import json
from typing import Any

from mcp_server.agents.answer import ToolCall
from mcp_server.agents.asked import check_schema, is_declined
from mcp_server.agents.events import ToolOutcome
from mcp_server.agents.steps import Steps
from mcp_server.errors import InvalidInput

ASK_PERSON = "ask_person"
"""The function whose calls are questions of the run that makes them; a definition allows it among its tools."""

MOST_MESSAGE = 4_000

QUESTION: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": ASK_PERSON,
        "description": "Ask a person a question, and wait for the answer.",
        "parameters": {
            "type": "object",
            "properties": {
                "message": {"type": "string", "description": "the question"},
                "schema": {
                    "type": "object",
                    "description": "JSON schema of the answer; any value if left out",
                },
            },
            "required": ["message"],
            "additionalProperties": False,
        },
    },
}


async def ask_person(steps: Steps, step: str, call: ToolCall) -> ToolOutcome:
    """Ask what the call says, and return the answer as its outcome: `{"answer": JSON}`."""
    try:
        message, schema = _read(call)
    except InvalidInput as error:
        return ToolOutcome(str(error), is_error=True)
    answer = await steps.ask(step, message=message, schema=schema, kind="question")
    if is_declined(answer):
        return ToolOutcome("forbidden: the person declined the question", is_error=True)
    return ToolOutcome(json.dumps({"answer": answer}, ensure_ascii=False))


def _read(call: ToolCall) -> tuple[str, dict[str, Any] | None]:
    given = call.read()
    message, schema = given.pop("message", None), given.pop("schema", None)
    if given:
        raise InvalidInput(f"{next(iter(given))[:80]}: ask_person takes message and schema")
    if not isinstance(message, str) or not 0 < len(message.strip()) <= MOST_MESSAGE:
        raise InvalidInput(f"message: give a text of 1 to {MOST_MESSAGE} characters")
    if schema is not None:
        if not isinstance(schema, dict):
            raise InvalidInput("schema: give the JSON schema of the answer, an object")
        check_schema(schema)  # pyright: ignore[reportUnknownArgumentType]  any JSON object
    return message, schema  # pyright: ignore[reportUnknownVariableType]
