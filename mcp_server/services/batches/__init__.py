"""Batches of the OpenAI face: many requests in one file, answered in two others."""

from __future__ import annotations

from mcp_server.services.batches.progress import BatchProgress, LineAnswer, NewLine, Waiting
from mcp_server.services.batches.records import BatchError, BatchRecord, BatchTerms
from mcp_server.services.batches.service import BatchPage, BatchService, UnknownBatch, open_batches

__all__ = [
    "BatchError",
    "BatchPage",
    "BatchProgress",
    "BatchRecord",
    "BatchService",
    "BatchTerms",
    "LineAnswer",
    "NewLine",
    "UnknownBatch",
    "Waiting",
    "open_batches",
]
