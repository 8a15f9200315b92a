"""Workers that die at chosen points of a batch: as `tests.e2e.fragile`, with those before, between and after its lines."""

from __future__ import annotations

from mcp_server.runs.queue import RunQueue
from mcp_server.services.batches import BatchProgress
from mcp_server.services.files import FileService
from tests.e2e import fragile

fragile.POINTS = (
    (BatchProgress, "forget_lines"),
    (BatchProgress, "add_lines"),
    (BatchProgress, "begin"),
    (BatchProgress, "finalize"),
    (FileService, "create"),
    (BatchProgress, "end"),
    (RunQueue, "end"),
)

if __name__ == "__main__":
    fragile.main()
