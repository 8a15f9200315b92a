"""Tools whose results carry each kind of content block."""

from __future__ import annotations

import base64
from pathlib import Path

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
)

from mcp_server.plugins import tool

_FILES = Path(__file__).parents[1]
_PIXEL = base64.b64encode((_FILES / "pixel.png").read_bytes()).decode()
_SILENCE = base64.b64encode((_FILES / "silence.wav").read_bytes()).decode()


def _result(*blocks: ContentBlock) -> CallToolResult:
    return CallToolResult(content=list(blocks))


def _resource(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


@tool()
async def test_simple_text() -> str:
    """Return one block of text."""
    return "This is a simple text response for testing."


@tool()
async def test_image_content() -> CallToolResult:
    """Return one PNG image."""
    return _result(ImageContent(data=_PIXEL, mime_type="image/png"))


@tool()
async def test_audio_content() -> CallToolResult:
    """Return one WAV sound."""
    return _result(AudioContent(data=_SILENCE, mime_type="audio/wav"))


@tool()
async def test_embedded_resource() -> CallToolResult:
    """Return one embedded text resource."""
    return _result(
        _resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    )


@tool()
async def test_multiple_content_types() -> CallToolResult:
    """Return text, an image and a resource in one result."""
    return _result(
        TextContent(text="Multiple content types test:"),
        ImageContent(data=_PIXEL, mime_type="image/png"),
        _resource(
            "test://mixed-content-resource", "application/json", '{"test":"data","value":123}'
        ),
    )
