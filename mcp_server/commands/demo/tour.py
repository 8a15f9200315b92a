"""What every step of the demo has: a client, the server's own names for what it makes, and the cleaning up."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent

from mcp_server.commands.demo.screen import Screen
from mcp_server.commands.demo.server import Target

CALL_SECONDS = 120.0
_CLEAN_UP_SECONDS = 30.0


# What a call may raise when the server is gone or refuses to speak with us.
CONNECTION_ERRORS = (
    MCPError,
    OSError,
    httpx2.HTTPError,
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,
)


class StepFailed(Exception):
    """A step did not show what it is there to show; the text says what came instead."""


@dataclass(slots=True)
class Tour:
    """One demo under way. `mark` is part of the names of what it makes, so that two demos never meet."""

    screen: Screen
    target: Target
    client: Client
    mark: str = field(default_factory=lambda: secrets.token_hex(3))
    _made: list[tuple[str, dict[str, Any]]] = field(
        default_factory=list[tuple[str, dict[str, Any]]]
    )

    @property
    def table(self) -> str:
        return f"demo_bridges_{self.mark}"

    @property
    def key(self) -> str:
        return f"demo-{self.mark}"

    @property
    def bucket(self) -> str:
        return f"demo-{self.mark}"

    def will_undo(self, tool: str, **arguments: Any) -> None:
        """Note the call that takes back what is about to be made."""
        self._made.append((tool, arguments))

    async def call(
        self, tool: str, *, progress: ProgressFnT | None = None, **arguments: Any
    ) -> Any:
        """Show and make one call; return its structured result.

        Raises:
            StepFailed: the tool says that it failed.
        """
        self._show(tool, arguments)
        return await self.call_unseen(tool, progress=progress, **arguments)

    async def call_unseen(
        self, tool: str, *, progress: ProgressFnT | None = None, **arguments: Any
    ) -> Any:
        """The same without showing the call."""
        result = await self._make(tool, arguments, progress)
        if result.is_error:
            raise StepFailed(f"{tool} answered: {text_of(result)}")
        return result.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        """Show and make one call that must fail; return the error's text.

        Raises:
            StepFailed: it did not fail.
        """
        self._show(tool, arguments)
        result = await self._make(tool, arguments, None)
        if not result.is_error:
            raise StepFailed(f"{tool} should have been refused, and answered: {text_of(result)}")
        return text_of(result)

    def _show(self, tool: str, arguments: dict[str, Any]) -> None:
        self.screen.call(tool, json.dumps(arguments, ensure_ascii=False))

    async def _make(
        self, tool: str, arguments: dict[str, Any], progress: ProgressFnT | None
    ) -> CallToolResult:
        async with self.screen.waiting(f"waiting for {tool}"):
            return await self.client.call_tool(
                tool, arguments, read_timeout_seconds=CALL_SECONDS, progress_callback=progress
            )

    async def read(self, uri: str) -> str:
        """Show and read one text resource.

        Raises:
            StepFailed: it is not text.
        """
        self.screen.call("resources/read", uri)
        result = await self.client.read_resource(uri)
        text = getattr(result.contents[0], "text", None)
        if not isinstance(text, str):
            raise StepFailed(f"{uri} came back without text")
        return text

    async def clean_up(self) -> list[str]:
        """Take back everything, the latest first, even when interrupted; return what could not be."""
        left: list[str] = []
        with anyio.move_on_after(_CLEAN_UP_SECONDS, shield=True) as scope:
            while self._made:
                tool, arguments = self._made.pop()
                try:
                    result = await self.client.call_tool(tool, arguments)
                except CONNECTION_ERRORS as error:
                    left.append(f"{tool} {json.dumps(arguments)} ({type(error).__name__})")
                    continue
                if result.is_error and not text_of(result).startswith("not_found"):
                    left.append(f"{tool} {json.dumps(arguments)}: {text_of(result)}")
        if scope.cancelled_caught:
            left.append(f"the server did not answer within {_CLEAN_UP_SECONDS:.0f} s")
        return left


def text_of(result: CallToolResult) -> str:
    """Return the text of a result."""
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))
