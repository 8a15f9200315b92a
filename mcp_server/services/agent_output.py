"""Whether the answer of an agent fits its output schema, and how a model is asked for one that does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mcp_server.errors import InvalidInput
from mcp_server.services.run_answer_check import AnswerCheck


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """Holds the text of an answer against a JSON schema."""

    schema: dict[str, Any]
    check: AnswerCheck

    async def __call__(self, text: str) -> str | None:
        """Return what is wrong with it, None if it fits."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"it is not JSON ({error})"
        try:
            await self.check.check({"kind": "question", "schema": self.schema}, value)
        except InvalidInput as error:
            return error.message
        return None
