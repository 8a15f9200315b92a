"""What an upstream may be asked at a time, how long it may take, and which fields it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_server.settings_models import UpstreamSetting


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one upstream; times are in seconds, and `concurrency` None is no bound.

    `first_token_seconds` and `between_tokens_seconds` are of streams, `total_seconds` of every answer.
    """

    models: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    concurrency: int | None = None
    queue: int = 100
    queue_seconds: float = 30.0
    connect_seconds: float = 5.0
    first_token_seconds: float = 600.0  # as OpenAI's own clients wait
    between_tokens_seconds: float = 600.0
    total_seconds: float | None = None
    strict: bool = False
    refuse_fields: tuple[str, ...] = field(default=())


def terms_of(setting: UpstreamSetting) -> Terms:
    """Take the terms out of an upstream's setting."""
    return Terms(**{each.name: getattr(setting, each.name) for each in fields(Terms)})
