"""What is known of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Row

ENDED = frozenset({"completed", "failed", "cancelled", "expired"})

BatchError: TypeAlias = dict[str, Any]
"""`{code, message, param, line}`: what is wrong with the input file; the first line is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTerms:
    """What is asked for: `output_seconds` is how long the files of the answers are kept, None for always."""

    input_file: str
    endpoint: str
    metadata: dict[str, str] | None = None
    output_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """One batch; `output_file` and `error_file` are drawn before there are such files."""

    id: str
    run: str
    endpoint: str
    input_file: str
    output_file: str
    error_file: str
    output_seconds: int | None
    metadata: dict[str, str] | None
    status: str
    total: int
    completed: int
    failed: int
    errors: list[BatchError] | None
    created_at: datetime
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    cancelling_at: datetime | None
    ended_at: datetime | None
    due_at: datetime

    @property
    def filed(self) -> bool:
        """Whether what was answered is in its files: not so if it failed."""
        return self.status in ENDED and self.status != "failed" and self.finalizing_at is not None


_FIELDS = tuple(BatchRecord.__dataclass_fields__)


def record_of(row: Row[Any]) -> BatchRecord:
    return BatchRecord(**{name: getattr(row, name) for name in _FIELDS})
