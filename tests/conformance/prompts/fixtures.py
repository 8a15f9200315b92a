"""Prompts that the suite lists, gets and completes."""

from __future__ import annotations

import base64
from pathlib import Path

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp_types import (
    CompletionArgument,
    CompletionContext,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    TextResourceContents,
)

from mcp_server.plugins import complete, prompt

_PIXEL = base64.b64encode((Path(__file__).parents[1] / "pixel.png").read_bytes()).decode()


@prompt()
async def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


@prompt()
async def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with two arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@complete("test_prompt_with_arguments")
async def begin_alike(argument: CompletionArgument, context: CompletionContext | None) -> list[str]:
    """Offer the words that begin with what was typed."""
    return [word for word in ("park", "party", "test", "text") if word.startswith(argument.value)]


@prompt()
async def test_prompt_with_embedded_resource(
    resourceUri: str,  # noqa: N803 - the suite's name of the argument
) -> list[UserMessage]:
    """A prompt that embeds the resource with the given address."""
    content = TextResourceContents(
        uri=resourceUri, mime_type="text/plain", text="Embedded resource content for testing."
    )
    return [
        UserMessage(EmbeddedResource(resource=content)),
        UserMessage("Please process the embedded resource above."),
    ]


@prompt()
async def test_prompt_with_image() -> list[UserMessage]:
    """A prompt with an image."""
    return [
        UserMessage(ImageContent(data=_PIXEL, mime_type="image/png")),
        UserMessage("Please analyze the image above."),
    ]


@prompt()
async def test_input_required_result_prompt(context: Context) -> str | InputRequiredResult:
    """A prompt that asks the user before it answers."""
    answer = (context.input_responses or {}).get("user_context")
    if isinstance(answer, ElicitResult) and answer.content:
        return f"Use this context: {answer.content.get('context')}"
    schema = {
        "type": "object",
        "properties": {"context": {"type": "string"}},
        "required": ["context"],
    }
    question = ElicitRequestFormParams(
        message="What context should the prompt use?", requested_schema=schema
    )
    return InputRequiredResult(input_requests={"user_context": ElicitRequest(params=question)})
