"""A statement with an idempotency key in a database of the operator's, which holds no marks of ours: at most once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from mcp_server.errors import Conflict
from mcp_server.services.sql_call import SqlOutcome
from mcp_server.services.sql_journal import StatementJournal

# An answer larger than this is not stored: its repetition has the columns and no rows.
_MAX_STORED = 1024 * 1024


class OutsideOnce:
    """Asks before a statement whether it was done, and stores after it that it is.

    The mark is in the control database, the effect elsewhere: a server that dies in between leaves an
    intent, and the repetition is refused, since nobody knows.
    """

    def __init__(self, entries: StatementJournal, key: str | None, params: Sequence[Any]) -> None:
        self._entries = entries
        self._key = key
        self._params = hashlib.sha256(json.dumps(params).encode()).hexdigest()

    async def begin(self) -> SqlOutcome | None:
        """Return the answer if the statement is done; else journal the intent.

        Raises:
            Conflict: another try began and its outcome is unknown, or it had other params.
            LeaseLost: the run is not the caller's any more.
        """
        done = None if self._key is None else await self._entries.answered()
        if done is not None:
            if done["params"] != self._params:
                raise Conflict(
                    "params: the same statement ran with other params under the same idempotency "
                    "key; give each call a key of its own",
                    param="params",
                )
            return done["answer"]
        if not await self._entries.intend():
            raise Conflict(
                "an earlier try of this statement may have taken effect; look at the rows, and send "
                "it under another key if it did not"
            )
        return None

    async def finish(self, answer: SqlOutcome) -> SqlOutcome:
        """Journal and store that it is done; return the answer."""
        if self._key is None:
            await self._entries.settle("write")
            return answer
        kept = answer
        if len(json.dumps(answer)) > _MAX_STORED:
            kept = answer.copy()
            kept["rows"], kept["truncated"], kept["next_cursor"] = [], True, None
        await self._entries.settle("write", {"params": self._params, "answer": kept})
        return answer
