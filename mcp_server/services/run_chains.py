"""What a run wrote to one thing last, without anybody between: from where it can be taken back, or why not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from mcp_server import policy
from mcp_server.errors import Conflict
from mcp_server.services.changes import UNDO


@dataclass(frozen=True, slots=True)
class Chain:
    """The writes of a run to one URI that nobody else's stand between; `first` and `newest` are entries
    of the journal, and `newest`, whoever made it, is what is there now. They are `length` writes."""

    first: Row[Any]
    newest: Row[Any]
    length: int

    @property
    def uri(self) -> str:
        return self.newest.uri

    @property
    def restores(self) -> int | None:
        """The version that was there before the run, None if there was none."""
        return self.first.prev_version

    @property
    def changed(self) -> bool:
        """Tell whether anything is left of what the run did: what it made and deleted leaves nothing."""
        return self.restores is not None or self.newest.version is not None


def position_of(entry: Row[Any]) -> str:
    """Return the position of an entry, as `changes` gives it out."""
    return f"{entry.xid}.{entry.seq}"


def chain_of(entries: Sequence[Row[Any]], family: Collection[str]) -> Chain | Conflict:
    """Find the newest unbroken chain of a run and its children in the entries of one URI, oldest first.

    What somebody wrote in between and took back again does not break it. Each entry must have replaced
    what the one before it left: where one does not, something is not told, and the chain begins there. A Conflict says why there is none.
    """
    places = {position_of(entry): place for place, entry in enumerate(entries)}
    first: Row[Any] | None = None
    length, taken_back = 0, False
    at, there = len(entries) - 1, entries[-1].version
    while at >= 0 and entries[at].version == there:
        entry = entries[at]
        undone = places.get(_undid(entry))
        if entry.run in family:
            first, there, at, length = entry, entry.prev_version, at - 1, length + 1
        elif undone is not None and undone < at:
            taken_back |= any(each.run in family for each in entries[undone:at])
            there, at = entries[undone].prev_version, undone - 1
        else:
            break
    if first is not None:
        return Chain(first, entries[-1], length)
    if taken_back:
        return Conflict("it is undone already")
    last = entries[-1]
    who = f"run {last.run}" if last.run else last.subject
    return Conflict(f"{who} changed it since; undo that first, or leave it")


def is_versioned(entry: Row[Any]) -> bool:
    """Tell whether an entry is of a thing of ours that has versions; tables and outside buckets have none."""
    written = entry.verb in {"write", "delete"} and policy.EGRESS not in entry.labels
    return written and (entry.version is not None or entry.prev_version is not None)


def took_effect(entries: Sequence[Row[Any]]) -> bool:
    """Tell whether any of a run's writes without versions to one URI may have been carried out.

    The entries of one statement share their labels; the last of them tells how it ended.
    """
    last = {tuple(entry.labels): entry.verb for entry in entries}
    return any(verb != "abort" for verb in last.values())


def _undid(entry: Row[Any]) -> str:
    labels = [label for label in entry.labels if label.startswith(UNDO)]
    return labels[0].removeprefix(UNDO) if labels else ""
