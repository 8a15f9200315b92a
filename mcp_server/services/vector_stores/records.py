"""What is known of vector stores, of the files in them and of files that came together."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from mcp_server.errors import InvalidInput

T = TypeVar("T")

FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]


class UnknownCursor(InvalidInput):
    """A page should begin behind, or end before, what is not in the list."""


@dataclass(frozen=True, slots=True)
class FileCounts:
    """How many files there are of each status."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        return self.in_progress + self.completed + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class StoreTerms:
    """What whoever makes a store says of it; it expires when it was not used for `expires_days`."""

    label: str | None = None
    description: str | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    expires_days: int | None = None


@dataclass(frozen=True, slots=True)
class StoreChange:
    """New values of columns of a store; what is not named stays."""

    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """One store; `usage_bytes` are its texts in UTF-8 and its vectors at four bytes a number."""

    id: str
    label: str
    description: str | None
    metadata: dict[str, str]
    created_at: datetime
    last_active_at: datetime
    expires_days: int | None
    expires_at: datetime | None
    expired: bool
    counts: FileCounts
    usage_bytes: int


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a file is cut: chunks of so many tokens (o200k_base), each found by so many before it too."""

    max_tokens: int
    overlap_tokens: int = 0


@dataclass(frozen=True, slots=True)
class GivenFile:
    """A file that is to be read into a store; without a chunking it is cut as the server cuts."""

    file: str
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    chunking: Chunking | None = None


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file in a store; `error` is a code of OpenAI's with the reason."""

    file: str
    store: str
    status: FileStatus
    created_at: datetime
    usage_bytes: int
    attributes: dict[str, Any]
    chunking: Chunking | None
    error: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """Files that were given to a store together."""

    id: str
    store: str
    created_at: datetime
    cancelled: bool
    counts: FileCounts


@dataclass(frozen=True, slots=True)
class Attached:
    """A row of a file that its run is to read into the store of that name."""

    id: str
    store: str
    file: str
    attributes: dict[str, Any]
    chunking: Chunking | None


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list: `limit` of it behind `after` or right before `before`, by creation."""

    limit: int
    newest_first: bool = True
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: list[T]
    has_more: bool
