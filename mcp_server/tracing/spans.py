"""A span that is over, in the words of OpenTelemetry's conventions for generative AI, and what takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from mcp_server.tracing.places import Place

Value: TypeAlias = str | bool | int | float | Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedSpan:
    """One operation; times are nanoseconds since 1970.

    `place` says which ids it has; without one it gets new ones, in the trace of its `parent` if it has
    that. `error` is a code, and makes the span's status an error. No attribute may hold what was said.
    """

    operation: Literal["chat", "execute_tool", "invoke_agent"]
    subject: str
    started: int
    ended: int
    place: Place | None = None
    parent: Place | None = None
    link: Place | None = None
    remote: bool = False
    error: str | None = None
    attributes: Mapping[str, Value | None] = field(default_factory=dict[str, Value | None])

    @property
    def name(self) -> str:
        """The operation and what it is done with or by."""
        return f"{self.operation} {self.subject}"


class Spans(Protocol):
    """Where spans go."""

    def add(self, span: EndedSpan) -> None:
        """Take one; must not block, and must not raise because nobody collects it."""
        ...


def usage_attributes(usage: Mapping[str, object]) -> dict[str, Value | None]:
    """Return the attributes of an OpenAI usage object; what a model miscounted is left out."""
    given = {
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
    }
    return {name: count for name, count in given.items() if isinstance(count, int)}
