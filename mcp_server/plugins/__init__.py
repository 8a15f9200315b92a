"""What plugin files import: the decorators that declare things, and what a declared function gets."""

from __future__ import annotations

from mcp_server.plugins.call import Call, Content
from mcp_server.plugins.declaring import (
    AsyncFunction,
    CompletionDeclaration,
    Preview,
    PromptDeclaration,
    ResourceDeclaration,
    ToolDeclaration,
    complete,
    prompt,
    resource,
    tool,
)
from mcp_server.plugins.loading import Plugins, bundled, load_plugins, set_up

__all__ = [
    "AsyncFunction",
    "Call",
    "CompletionDeclaration",
    "Content",
    "Plugins",
    "Preview",
    "PromptDeclaration",
    "ResourceDeclaration",
    "ToolDeclaration",
    "bundled",
    "complete",
    "load_plugins",
    "prompt",
    "resource",
    "set_up",
    "tool",
]
