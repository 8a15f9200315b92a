"""The first look at a batch: its whole input file is checked before anything is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from mcp_server.auth.principal import Principal
from mcp_server.services.batches import BatchError, BatchProgress, BatchRecord, NewLine
from mcp_server.services.files import UnknownFile
from openai_facade.batches.reading import MOST_BYTES, MOST_LINES, checked_line, fault, lines_of
from openai_facade.facade import Facade

_MOST_ERRORS = 100
_STORED_AT_ONCE = 500


class Check:
    """Checks the input file and stores where its lines are."""

    def __init__(
        self, facade: Facade, progress: BatchProgress, batch: BatchRecord, longest: int
    ) -> None:
        self._files = facade.data.files
        self._progress = progress
        self._batch = batch
        self._longest = longest

    async def run(self, principal: Principal) -> list[BatchError]:
        """Return what is wrong; if nothing is, the batch is in progress."""
        file = self._batch.input_file
        try:
            record = await self._files.get(principal, file)
            found = await self._files.content(principal, file)
        except UnknownFile as error:
            return [fault("invalid_file", error.message, param="input_file_id")]
        if record.purpose != "batch":
            message = f"The purpose of the file is '{record.purpose}'; upload it as 'batch'."
            return [fault("invalid_file", message, param="input_file_id")]
        if record.bytes > MOST_BYTES:
            message = f"The file has {record.bytes} bytes; {MOST_BYTES} are the most."
            return [fault("file_too_large", message, param="input_file_id")]
        await self._progress.forget_lines()
        async with aclosing(found.bytes(0, found.stat["size"])) as pieces:
            total, errors = await self._read(pieces)
        if not errors and not total:
            errors = [fault("empty_file", "The input file is empty.", param="input_file_id")]
        if not errors:
            await self._progress.begin(total)
        return errors

    async def _read(self, pieces: AsyncGenerator[bytes]) -> tuple[int, list[BatchError]]:
        """Return how many lines there are, and what is wrong with the first of those that do not fit."""
        total, errors, held = 0, list[BatchError](), list[NewLine]()
        async with aclosing(lines_of(pieces, self._longest)) as lines:
            async for line in lines:
                total += 1
                if total > MOST_LINES:
                    message = f"The file has over {MOST_LINES} requests, the most of a batch."
                    errors.append(fault("too_many_requests", message, line.number))
                    break
                checked = checked_line(line, self._batch.endpoint, self._longest)
                if isinstance(checked, NewLine):
                    held.append(checked)
                else:
                    errors.append(checked)
                if len(held) == _STORED_AT_ONCE:
                    errors += await self._store(held)
                    held.clear()
                if len(errors) >= _MOST_ERRORS:
                    break
        if held:
            errors += await self._store(held)
        return total, sorted(errors, key=lambda each: each["line"])[:_MOST_ERRORS]

    async def _store(self, held: list[NewLine]) -> list[BatchError]:
        message = "The custom_id of this line is that of an earlier one; each must be its own."
        return [
            fault("duplicate_custom_id", message, number, "custom_id")
            for number in await self._progress.add_lines(held)
        ]
