"""Whether an answer fits the question that a run asked, told within a time that no answer and no schema can exceed."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from mcp_server.agents.asked import answer_schema
from mcp_server.errors import InvalidInput
from mcp_server.services import schema_process
from mcp_server.storage.sql.schema import encode_json

MOST_ANSWER_BYTES = 262_144
# What a process of its own may take, its start on a busy machine included; and how many there may be.
MOST_SECONDS = 5.0
AT_ONCE = 2

# Keywords whose time grows faster than the schema and the answer: a regular expression backtracks, a
# reference multiplies, items are compared with each other.
_DEAR = ('"pattern', '"$', '"uniqueItems"', '"unevaluated', '"dependent')
# The bytes of the schema times those of the answer up to which all other keywords are quick.
_QUICK = 4_000_000


class AnswerCheck:
    """Holds answers against what was asked; those that could keep the whole server busy in a process of their own."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def check_part(self, request: dict[str, Any], part: str, answer: Any) -> None:
        """Hold an answer against the schema of one part of a request.

        Raises:
            InvalidInput: the request has no such part, or the answer does not fit.
        """
        asked = request.get("parts", {}).get(part)
        if asked is None:
            raise InvalidInput(f"part: the question has no part {part[:80]!r}", param="part")
        await self.check({"kind": "question", "schema": asked["schema"]}, answer)

    async def check(self, request: dict[str, Any], answer: Any) -> None:
        """Hold an answer against the schema of its request.

        Raises:
            InvalidInput: the answer does not fit, is too large, or takes too long to hold against the
                schema; names the place in it.
        """
        encoded = encode_json(answer)
        if len(encoded) > MOST_ANSWER_BYTES:
            raise InvalidInput(
                f"answer: it is longer than the {MOST_ANSWER_BYTES} bytes allowed; store it as an "
                "object and answer with its key",
                param="answer",
            )
        schema = answer_schema(request)
        if schema is None:
            return
        asked = json.dumps(schema)
        if len(asked) * len(encoded) > _QUICK or any(word in asked for word in _DEAR):
            fault = await self._apart(f'{{"schema": {asked}, "value": {encoded}}}')
        else:
            fault = schema_process.fault_of(schema, answer)
        if fault is not None:
            raise _misfit(fault)

    async def _apart(self, given: str) -> dict[str, Any] | None:
        async with self._slots:
            process = await asyncio.create_subprocess_exec(
                # Not as a module: the package would load much that it has no use for.
                *(sys.executable, "-P", schema_process.__file__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(MOST_SECONDS):
                    told, _ = await process.communicate(given.encode())
            except TimeoutError as error:
                raise InvalidInput(
                    f"answer: it cannot be held against the question's schema within {MOST_SECONDS:g} "
                    "seconds; give a shorter one",
                    param="answer",
                ) from error
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        return json.loads(told) if told else {"unusable": f"exit code {process.returncode}"}


def _misfit(fault: dict[str, Any]) -> InvalidInput:
    if "unusable" in fault:
        return InvalidInput(
            f"answer: the question's schema cannot be applied ({fault['unusable'][:500]}); its tool "
            "must be mended",
            param="answer",
        )
    where = "".join(f"[{part!r}]" for part in fault["path"])
    return InvalidInput(f"answer{where}: {fault['message']}", param="answer")
