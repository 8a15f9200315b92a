"""Workers that die at chosen points of an ingestion: as `tests.e2e.fragile`, with the points of reading and indexing."""

from __future__ import annotations

from mcp_server.ingest.parsing import Parser
from mcp_server.operation import Operation
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.steps import RunSteps
from mcp_server.services.ingest import IngestService
from mcp_server.services.vectors.indexing import Indexer
from tests.e2e import fragile

fragile.POINTS = (
    (IngestService, "read"),
    (Parser, "parse"),
    (Indexer, "embed"),
    (Indexer, "draw"),
    (Indexer, "put"),
    (Operation, "replay"),
    (Operation, "remember"),
    (RunSteps, "finish"),
    (RunQueue, "end"),
)

if __name__ == "__main__":
    fragile.main()
