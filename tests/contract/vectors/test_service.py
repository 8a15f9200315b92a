"""Vector stores on the real database: documents, searches, filters, pages, tenants, scopes, journal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.services.vectors import VectorService
from mcp_server.storage.sql.schema import chunk_vectors, chunks, documents
from mcp_server.storage.vectors import VectorEngine
from tests.contract.vectors.hashed_words import HashedWords

MODES = ["hybrid", "dense", "text"]


def found(results: Any) -> list[str]:
    return [result["document"] for result in results["results"]]


async def test_a_document_is_found_with_everything_the_contract_promises(
    vectors: VectorService, principal: Principal
) -> None:
    body = "  The quick brown fox jumps over the lazy dog.\n"
    added = await vectors.add(
        principal, "zoo", body, document="fox", metadata={"kind": "animal", "legs": 4}
    )
    assert added == {"store": "zoo", "document": "fox", "chunks": 1}
    for mode in MODES:
        answer = await vectors.search(principal, "zoo", "brown fox", mode=mode)
        [result] = answer["results"]
        assert result.pop("score") > 0
        assert result == {
            "document": "fox",
            "chunk": 0,
            "text": "The quick brown fox jumps over the lazy dog.",
            "metadata": {"kind": "animal", "legs": 4},
            "start": 2,
            "end": 46,
        }
