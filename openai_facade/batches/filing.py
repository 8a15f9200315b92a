"""The files that a batch ends with: one JSON object for each line of its input, in the same order."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from mcp_server.auth.principal import Principal
from mcp_server.services.batches import BatchProgress, BatchRecord
from mcp_server.services.batches.progress import AnsweredLine
from mcp_server.services.files import FileService, FileTerms

_PURPOSE = "batch_output"
_TYPE = "text/plain; charset=utf-8"  # as which every face shows it


async def write_files(
    files: FileService, principal: Principal, batch: BatchRecord, progress: BatchProgress
) -> None:
    """Write the files of what completed and of what failed; written again, they are the same ones.

    Raises:
        AppError: the caller may not write files any more, or an engine is away.
    """
    wanted = (
        ("completed", batch.completed, batch.output_file, "output"),
        ("failed", batch.failed, batch.error_file, "error"),
    )
    for state, count, file_id, kind in wanted:
        if not count:
            continue
        name = f"{batch.id}_{kind}.jsonl"
        terms = FileTerms(name, _PURPOSE, _TYPE, batch.output_seconds)
        async with aclosing(_encoded(progress, state)) as pieces:
            await files.create(principal, pieces, lambda terms=terms: terms, file_id)


async def _encoded(progress: BatchProgress, state: str) -> AsyncGenerator[bytes]:
    async with aclosing(progress.answered(state)) as found:
        async for line in found:
            yield orjson.dumps(_shown(line)) + b"\n"


def _shown(line: AnsweredLine) -> dict[str, object]:
    answer = line.answer
    response = None
    if answer.body is not None:
        response = {
            "status_code": answer.status_code,
            "request_id": answer.request_id,
            "body": orjson.Fragment(answer.body),
        }
    return {
        "id": answer.answer_id,
        "custom_id": line.custom_id,
        "response": response,
        "error": answer.error,
    }
